// What a test sees and sets: one page of memory that the process running on the
// fake and the test share, laid out as fakecuda.State is in Go. All numbers are
// 64-bit.
#pragma once
#include <stdint.h>

enum { kinds = 4, failures = 8 };

struct failure {
	char call[32];   // such as "cudaMalloc"
	uint64_t skip;   // calls that still succeed before
	uint64_t times;  // calls that then fail
	uint64_t error;  // with this cudaError_t
};

struct state {
	uint64_t device_allocs, device_frees, device_bytes, device_peak;
	uint64_t pinned_allocs, pinned_frees, pinned_bytes, pinned_peak;
	uint64_t copies[kinds], copied[kinds]; // by cudaMemcpyKind
	uint64_t pageable[kinds];              // those between the device and host memory that is not pinned
	uint64_t deferred;                     // copies that waited for their stream to be synchronized
	uint64_t streams, streams_made, events, syncs, launches;
	uint64_t handles, handles_open;        // of memory of another process
	struct failure fail[failures];
};
