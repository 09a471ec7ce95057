"""Speaker recognition: a universal background model of 512 components, adapted to 200 speakers on one read.

Frames of speech (here synthetic cepstra) lie in a zarr array, those of all speakers mixed up, with the speaker of each
beside them. A Gaussian mixture of all frames is the background model; `adapt` gives every speaker means of their own
(Reynolds, Quatieri and Dunn 2000). A new utterance is recognised by its log-likelihood ratio between speaker and
background, of which only the few components that are near to a frame matter. Run it with `python speakers.py`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

import dem

N_SPEAKERS, N_FEATURES, N_SOUNDS = 200, 12, 60
TRAINING, TEST = 400, 60  # frames of each speaker
NEAREST = 5  # components that count for a frame


def frames(voices: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return n frames of each speaker, shape (n_speakers * n, n_features), and whose they are."""
    speaker = np.repeat(np.arange(len(voices)), n)
    sound = rng.integers(0, N_SOUNDS, len(speaker))
    noise = rng.standard_normal((len(speaker), N_FEATURES))
    return (voices[speaker, sound] + noise).astype("f4"), speaker


def log_ratios(ubm: dem.GaussianMixture, means: np.ndarray, utterances: np.ndarray) -> np.ndarray:
    """Return log p(frame | speaker) − log p(frame), averaged over utterances (n, frames, n_features), by speaker.

    With responsibilities γ of the background that is log Σ γ · N(frame | speaker) / N(frame | background).
    """
    rows = utterances.reshape(-1, N_FEATURES)
    shares = np.asarray(ubm.predict_proba(rows))
    near = np.argpartition(shares, -NEAREST, axis=1)[:, -NEAREST:]
    shares = np.take_along_axis(shares, near, axis=1)
    precisions = ubm.precisions_[near]
    away = 2.0 * (rows[:, np.newaxis] - ubm.means_[near])
    found = []
    for own in means:
        step = (own - ubm.means_)[near]
        gain = 0.5 * np.einsum("ncd,ncd,ncd->nc", precisions, step, away - step)
        ratio = np.log(np.sum(shares * np.exp(gain), axis=1))
        found.append(ratio.reshape(utterances.shape[:2]).mean(axis=1))
    return np.stack(found, axis=1)


def write(path: str, voices: np.ndarray, rng: np.random.Generator) -> None:
    """Write the frames of all speakers, mixed up, and whose they are."""
    rows, speaker = frames(voices, TRAINING, rng)
    order = rng.permutation(len(rows))
    group = zarr.open_group(path, mode="w")
    stored = group.create_array("cepstra", shape=rows.shape, chunks=(20_000, N_FEATURES), dtype="f4")
    stored[:] = rows[order]
    whose = group.create_array("speaker", shape=speaker.shape, chunks=(20_000,), dtype="i4")
    whose[:] = speaker[order]


def main() -> None:
    """Write, fit the background, adapt, recognise."""
    rng = np.random.default_rng(0)
    sounds = 2.5 * rng.standard_normal((N_SOUNDS, N_FEATURES))
    voices = sounds + 0.5 * rng.standard_normal((N_SPEAKERS, 1, N_FEATURES))
    voices = voices + 0.3 * rng.standard_normal((N_SPEAKERS, N_SOUNDS, N_FEATURES))
    folder = Path(tempfile.mkdtemp())
    speech = str(folder / "speech.zarr")
    write(speech, voices, rng)

    began = time.perf_counter()
    # Components of few frames do not collapse: they have a prior.
    ubm = dem.GaussianMixture(512, covariance_type="diag", prior="default", tol=0.05, max_iter=20, random_state=0)
    ubm.set_params(init_params="random_from_data", sample_rows=20_000).fit(speech, variable="cepstra")
    took = time.perf_counter() - began
    print(f"background: 512 components from {ubm.n_samples_seen_} frames in {took:.1f} s")

    began = time.perf_counter()
    speakers = ubm.adapt(speech, variable="cepstra", groups="speaker")
    means = speakers.parameters["means"]
    print(f"{len(speakers)} speakers on one read in {time.perf_counter() - began:.1f} s: means {means.shape}")

    utterances = frames(voices, TEST, rng)[0].reshape(N_SPEAKERS, TEST, N_FEATURES)
    scores = log_ratios(ubm, means, utterances)
    named = speakers.groups[scores.argmax(axis=1)]
    print(f"identified: {np.mean(named == np.arange(N_SPEAKERS)):.1%} of {N_SPEAKERS} utterances of {TEST} frames")
    own, others = np.diag(scores), scores[~np.eye(N_SPEAKERS, dtype=bool)]
    print(f"verified: {np.mean(own > np.quantile(others, 0.99)):.1%} of the speakers where 1 of 100 impostors passes")
    exact = np.mean(speakers[7].score_samples(utterances[7]) - ubm.score_samples(utterances[7]))
    print(f"a log-likelihood ratio per frame: {scores[7, 7]:.4f} from {NEAREST} components, {exact:.4f} from all")

    speakers.save(str(folder / "speakers.zarr"))
    print(f"saved and loaded: {dem.load(str(folder / 'speakers.zarr'))}")


if __name__ == "__main__":
    main()
