// One side of benchmarks/conversation.py: EM iterations of Armadillo's gmm_full or gmm_diag.
// Arguments: file of float64 rows (C order), n, d, K, "full" or "diag". Each line asks for a number of iterations.
#include <armadillo>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>

template <class Model, class Covariances>
static void serve(Model& model, const arma::mat& rows, const Covariances& covariances, arma::uword k) {
  const arma::mat means = rows.head_cols(k);
  const arma::rowvec weights(k, arma::fill::value(1.0 / static_cast<double>(k)));
  std::cout << "{\"ready\": true, \"version\": \"" << arma::arma_version::as_string() << "\"}" << std::endl;
  arma::uword iterations = 0;
  while (std::cin >> iterations) {
    model.set_params(means, covariances, weights);
    const auto began = std::chrono::steady_clock::now();
    const bool fine = model.learn(rows, k, arma::maha_dist, arma::keep_existing, 0, iterations, 1e-6, false);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    std::cout << "{\"seconds\": " << seconds.count() << ", \"fine\": " << (fine ? "true" : "false") << "}" << std::endl;
  }
}

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const arma::uword n = std::stoull(argv[2]), d = std::stoull(argv[3]), k = std::stoull(argv[4]);
  arma::mat rows(d, n);  // column-major (d, n) is C order (n, d)
  std::ifstream file(argv[1], std::ios::binary);
  file.read(reinterpret_cast<char*>(rows.memptr()), static_cast<std::streamsize>(sizeof(double) * n * d));
  if (!file) return 3;
  const arma::vec variance = arma::var(rows.head_cols(std::min<arma::uword>(n, 10000)), 1, 1);
  if (std::string(argv[5]) == "full") {
    arma::cube covariances(d, d, k);
    covariances.each_slice() = arma::mat(arma::diagmat(variance));
    arma::gmm_full model;
    serve(model, rows, covariances, k);
  } else {
    const arma::mat covariances = arma::repmat(variance, 1, k);
    arma::gmm_diag model;
    serve(model, rows, covariances, k);
  }
  return 0;
}
