"""Clusters for the tests that kill them: on the loopback interface, ports that are free, one thread a worker."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster

from dem.events import IterationEnded, WorkersAwaited

LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}


@contextmanager
def cluster_of(n_workers, **options):
    """A cluster of worker processes under nannies, and its client.

    What is killed comes back however long it takes: by default Dask gives up a worker that is not there 15 s after a
    death, also one that has come back meanwhile and was killed again.
    """
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(n_workers=n_workers, threads_per_worker=1, **LOOPBACK, **options) as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


def cluster_of_threads(n_workers):
    """The same, whose workers are threads of this process: it starts and ends at once."""
    return cluster_of(n_workers, processes=False, protocol="tcp")


def kill_all(client):
    for pid in client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)


class After:
    """A callback that acts once, when an iteration on all the data has ended, and keeps all events."""

    def __init__(self, action=lambda: None, iteration=2):
        self.action, self.iteration, self.done, self.events = action, iteration, False, []

    def __call__(self, event):
        self.events.append(event)
        ended = isinstance(event, IterationEnded) and event.phase == "data"
        if ended and event.iteration == self.iteration and not self.done:
            self.done = True
            self.action()

    @property
    def waits(self):
        return [event for event in self.events if isinstance(event, WorkersAwaited)]
