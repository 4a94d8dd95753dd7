#include "token_filter.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace fastdiff::cpu {
namespace {

float median(float a, float b, float c) { return std::max(std::min(a, b), std::min(std::max(a, b), c)); }

// Of tokens beside a pivot.
struct Share {
  int64_t count = 0;
  double mass = 0;
};

}  // namespace

float kth_largest(float* values, int64_t count, int64_t k) {
  std::nth_element(values, values + k - 1, values + count, std::greater<float>());
  return values[k - 1];
}

// A quick select by mass: what is larger than a pivot goes to the front, what is smaller to the end, and the search goes
// on where the mass is reached.
Cut nucleus(WeighedToken* tokens, int64_t count, double mass) {
  while (count > 0) {
    const float pivot = median(tokens[0].logit, tokens[count / 2].logit, tokens[count - 1].logit);
    Share larger, equal;
    int64_t end = count;  // of what is not known to be smaller
    for (int64_t i = 0; i < end;) {
      const WeighedToken token = tokens[i];
      if (token.logit < pivot) {
        std::swap(tokens[i], tokens[--end]);
      } else if (token.logit > pivot) {
        std::swap(tokens[i++], tokens[larger.count++]);
        larger.mass += token.weight;
      } else {
        ++i, ++equal.count, equal.mass += token.weight;
      }
    }
    if (larger.count > 0 && mass <= larger.mass) {
      count = larger.count;
    } else if (mass <= larger.mass + equal.mass) {
      const double each = equal.mass / static_cast<double>(equal.count);
      const auto needed = static_cast<int64_t>(std::ceil((mass - larger.mass) / each));
      return {pivot, std::clamp<int64_t>(needed, 1, equal.count)};
    } else {
      mass -= larger.mass + equal.mass;
      tokens += end, count -= end;
    }
  }
  return {-std::numeric_limits<float>::infinity(), 0};  // the mass is all of it, but for rounding
}

}  // namespace fastdiff::cpu
