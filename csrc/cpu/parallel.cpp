#include "parallel.h"

#include <pthread.h>

namespace fastvi {

bool forked = false;

namespace {

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace
}  // namespace fastvi
