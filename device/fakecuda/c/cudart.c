// A CUDA runtime without a GPU, for tests. Device memory is host memory that
// the CPU may not touch at its device address: a stray access ends the process,
// as it would with a GPU. Copies between pinned and device memory on a stream
// are not done before somebody waits for them, the worst that a GPU may do to
// whoever reuses a buffer too early. Kernels do nothing.
//
// The environment sets what the fake is: FAKECUDA_DEVICES, FAKECUDA_MEMORY (of
// each, bytes), FAKECUDA_DRIVER (the CUDA version it serves, such as 12040),
// FAKECUDA_STATE (a file with struct state, which others may map as well).
#define _GNU_SOURCE
#include "state.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { success = 0, invalid_value = 1, out_of_memory = 2, insufficient_driver = 35, no_device = 100, invalid_device = 101,
	device_uninitialized = 201, invalid_handle = 400 };
enum { runtime_version = 13000 };
enum { host_to_host, host_to_device, device_to_host, device_to_device, by_address };
enum where { pageable, pinned, on_device };

static struct state unshared;
struct state* fakecuda_state = &unshared;
#define st fakecuda_state
static uint64_t devices = 1, memory = 8ull << 30, driver = runtime_version;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int current, last;

static uint64_t setting(const char* name, uint64_t otherwise) {
	const char* v = getenv(name);
	return v ? strtoull(v, NULL, 10) : otherwise;
}

__attribute__((constructor)) static void start(void) {
	devices = setting("FAKECUDA_DEVICES", devices);
	memory = setting("FAKECUDA_MEMORY", memory);
	driver = setting("FAKECUDA_DRIVER", driver);
	const char* path = getenv("FAKECUDA_STATE");
	int fd = path ? open(path, O_RDWR) : -1;
	if (fd < 0) return;
	void* p = mmap(NULL, sizeof *st, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p != MAP_FAILED) st = p;
}

// Memory.

struct block {
	char* at;     // the address that the caller knows
	char* bytes;  // where the fake reads and writes; at, where the CPU may
	size_t size;
	int fd;       // of device memory
	int device;
	enum where where;
	int foreign;  // another process's
	struct block* next;
};
static struct block* blocks;

static struct block* find(const void* p) {
	for (struct block* b = blocks; b; b = b->next)
		if ((char*)p >= b->at && (char*)p < b->at + b->size) return b;
	return NULL;
}

static size_t whole(size_t n) { return n ? (n + 4095) / 4096 * 4096 : 4096; }

// hide maps fd twice: for the fake, and where nobody may touch it.
static struct block* hide(int fd, size_t size, int device) {
	struct block* b = calloc(1, sizeof *b);
	b->at = mmap(NULL, size, PROT_NONE, MAP_SHARED, fd, 0);
	b->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	b->size = size, b->fd = fd, b->device = device, b->where = on_device;
	if (b->at == MAP_FAILED || b->bytes == MAP_FAILED) abort();
	b->next = blocks;
	return blocks = b;
}

static void drop(struct block* b) {
	for (struct block** p = &blocks; *p; p = &(*p)->next)
		if (*p == b) { *p = b->next; break; }
	munmap(b->at, b->size);
	if (b->bytes != b->at) munmap(b->bytes, b->size), close(b->fd);
	free(b);
}

static uint64_t used(int device) {
	uint64_t n = 0;
	for (struct block* b = blocks; b; b = b->next)
		if (b->where == on_device && b->device == device && !b->foreign) n += b->size;
	return n;
}

static void more(uint64_t* now, uint64_t* peak, uint64_t n) {
	*now += n;
	if (*now > *peak) *peak = *now;
}

// Failures.

static int injected(const char* call) {
	for (int i = 0; i < failures; i++) {
		struct failure* f = &st->fail[i];
		if (!f->times || strcmp(f->call, call)) continue;
		if (f->skip) { f->skip--; continue; }
		f->times--;
		return f->error;
	}
	return success;
}

// Every call begins with enter, which takes the lock, and ends with leave.
static int enter(const char* call) {
	pthread_mutex_lock(&lock);
	if (driver < runtime_version) return insufficient_driver;
	if (!devices) return no_device;
	return injected(call);
}

static int leave(int error) {
	if (error) last = error;
	pthread_mutex_unlock(&lock);
	return error;
}

#define ENTER(...) \
	int error = enter(__func__); \
	if (error) { __VA_ARGS__; return leave(error); }

// Streams: copies that wait.

struct copy { char* to; const char* from; size_t n; struct copy* next; };
struct stream { struct copy *first, **end; struct stream* next; };
static struct stream* streams;

static void flush(struct stream* s) {
	while (s->first) {
		struct copy* c = s->first;
		s->first = c->next;
		memcpy(c->to, c->from, c->n);
		free(c);
	}
	s->end = &s->first;
}

static void flush_all(void) {
	for (struct stream* s = streams; s; s = s->next) flush(s);
}

static int copy(void* to, const void* from, size_t n, int kind, struct stream* s) {
	struct block *d = find(to), *f = find(from);
	enum where dw = d ? d->where : pageable, fw = f ? f->where : pageable;
	int is = 2 * (fw == on_device) + (dw == on_device);
	if (kind != by_address && kind != is) return invalid_value;
	if (d && (char*)to + n > d->at + d->size || f && (char*)from + n > f->at + f->size) return invalid_value;
	st->copies[is]++, st->copied[is] += n;
	if (is != device_to_device && (dw == pageable || fw == pageable)) st->pageable[is]++;
	if (d) to = d->bytes + ((char*)to - d->at);
	if (f) from = f->bytes + ((char*)from - f->at);
	if (!s || dw == pageable || fw == pageable) {
		if (s) flush(s);
		memcpy(to, from, n);
		return success;
	}
	struct copy* c = malloc(sizeof *c);
	*c = (struct copy){to, from, n, NULL};
	*s->end = c, s->end = &c->next;
	st->deferred++;
	return success;
}

// Devices.

int cudaGetDeviceCount(int* n) { *n = 0; ENTER(); *n = devices; return leave(success); }
int cudaGetDevice(int* d) { ENTER(); *d = current; return leave(success); }
int cudaSetDevice(int d) {
	ENTER();
	if (d < 0 || d >= (int)devices) return leave(invalid_device);
	current = d;
	return leave(success);
}
int cudaDeviceSynchronize(void) { ENTER(); flush_all(); return leave(success); }
int cudaMemGetInfo(size_t* free, size_t* total) { ENTER(); *total = memory, *free = memory - used(current); return leave(success); }
int cudaDriverGetVersion(int* v) { *v = driver; return success; }
int cudaRuntimeGetVersion(int* v) { *v = runtime_version; return success; }

// cudaDeviceProp of CUDA 13, as far as anybody here reads it.
int cudaGetDeviceProperties(char* p, int d) {
	ENTER();
	if (d < 0 || d >= (int)devices) return leave(invalid_device);
	memset(p, 0, 400);
	snprintf(p, 256, "Fake GPU %d", d);
	*(uint64_t*)(p + 288) = memory;
	*(int*)(p + 308) = 32;   // warpSize
	*(int*)(p + 320) = 1024; // maxThreadsPerBlock
	*(int*)(p + 360) = 9;    // major
	*(int*)(p + 384) = 1;    // multiProcessorCount
	return leave(success);
}

int cudaDeviceGetAttribute(int* v, int attribute, int d) {
	ENTER();
	enum { warp_size = 10, major = 75, minor = 76 };
	*v = attribute == warp_size ? 32 : attribute == major ? 9 : attribute == minor ? 0 : 1;
	return leave(success);
}

// Memory.

int cudaMalloc(void** p, size_t n) {
	ENTER(*p = NULL);
	*p = NULL;
	if (n > memory || whole(n) > memory - used(current)) return leave(out_of_memory);
	n = whole(n);
	int fd = memfd_create("fakecuda", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, n)) abort();
	struct block* b = hide(fd, n, current);
	memset(b->bytes, 0xcd, n < 1 << 20 ? n : 1 << 20); // fresh device memory is not cleared
	st->device_allocs++;
	more(&st->device_bytes, &st->device_peak, n);
	*p = b->at;
	return leave(success);
}

int cudaFree(void* p) {
	ENTER();
	if (!p) return leave(success);
	struct block* b = find(p);
	if (!b || b->at != p || b->where != on_device || b->foreign) return leave(invalid_value);
	flush_all();
	st->device_frees++, st->device_bytes -= b->size;
	drop(b);
	return leave(success);
}

static int host(void** p, size_t n) {
	*p = NULL;
	n = whole(n);
	struct block* b = calloc(1, sizeof *b);
	b->at = b->bytes = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->at == MAP_FAILED) { free(b); return out_of_memory; }
	b->size = n, b->where = pinned, b->next = blocks, blocks = b;
	st->pinned_allocs++;
	more(&st->pinned_bytes, &st->pinned_peak, n);
	*p = b->at;
	return success;
}
int cudaHostAlloc(void** p, size_t n, unsigned flags) { ENTER(*p = NULL); return leave(host(p, n)); }
int cudaMallocHost(void** p, size_t n) { ENTER(*p = NULL); return leave(host(p, n)); }

int cudaFreeHost(void* p) {
	ENTER();
	if (!p) return leave(success);
	struct block* b = find(p);
	if (!b || b->at != p || b->where != pinned) return leave(invalid_value);
	flush_all();
	st->pinned_frees++, st->pinned_bytes -= b->size;
	drop(b);
	return leave(success);
}

int cudaMemcpy(void* d, const void* s, size_t n, int kind) { ENTER(); flush_all(); return leave(copy(d, s, n, kind, NULL)); }
int cudaMemcpyAsync(void* d, const void* s, size_t n, int kind, struct stream* on) { ENTER(); return leave(copy(d, s, n, kind, on)); }

static int set(void* p, int v, size_t n) {
	struct block* b = find(p);
	if (!b || b->where != on_device || (char*)p + n > b->at + b->size) return invalid_value;
	memset(b->bytes + ((char*)p - b->at), v, n);
	return success;
}
int cudaMemset(void* p, int v, size_t n) { ENTER(); flush_all(); return leave(set(p, v, n)); }
int cudaMemsetAsync(void* p, int v, size_t n, struct stream* s) { ENTER(); if (s) flush(s); return leave(set(p, v, n)); }

// Memory of other processes.

struct handle { int32_t pid, fd, device, pad; uint64_t size; char rest[40]; };

int cudaIpcGetMemHandle(struct handle* h, void* p) {
	ENTER();
	struct block* b = find(p);
	if (!b || b->where != on_device || b->foreign) return leave(invalid_value);
	*h = (struct handle){getpid(), b->fd, b->device, 0, b->size, {0}};
	st->handles++;
	return leave(success);
}

int cudaIpcOpenMemHandle(void** p, struct handle h, unsigned flags) {
	ENTER(*p = NULL);
	*p = NULL;
	if (h.pid == getpid()) return leave(device_uninitialized); // as with a GPU
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/fd/%d", h.pid, h.fd);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) return leave(invalid_handle);
	struct block* b = hide(fd, h.size, h.device);
	b->foreign = 1;
	st->handles_open++;
	*p = b->at;
	return leave(success);
}

int cudaIpcCloseMemHandle(void* p) {
	ENTER();
	struct block* b = find(p);
	if (!b || !b->foreign) return leave(invalid_value);
	flush_all();
	st->handles_open--;
	drop(b);
	return leave(success);
}

// Streams and events.

int cudaStreamCreateWithFlags(struct stream** s, unsigned flags) {
	ENTER(*s = NULL);
	struct stream* n = calloc(1, sizeof *n);
	n->end = &n->first, n->next = streams, streams = n;
	st->streams++, st->streams_made++;
	*s = n;
	return leave(success);
}
int cudaStreamCreate(struct stream** s) { return cudaStreamCreateWithFlags(s, 0); }

int cudaStreamDestroy(struct stream* s) {
	ENTER();
	flush(s);
	for (struct stream** p = &streams; *p; p = &(*p)->next)
		if (*p == s) { *p = s->next; break; }
	free(s);
	st->streams--;
	return leave(success);
}

int cudaStreamSynchronize(struct stream* s) {
	ENTER();
	st->syncs++;
	if (s) flush(s); else flush_all();
	return leave(success);
}
int cudaStreamWaitEvent(struct stream* s, void* e, unsigned flags) { ENTER(); flush_all(); return leave(success); }
int cudaStreamIsCapturing(struct stream* s, int* v) { ENTER(); *v = 0; return leave(success); }

int cudaEventCreateWithFlags(void** e, unsigned flags) { ENTER(); *e = malloc(8); st->events++; return leave(success); }
int cudaEventCreate(void** e) { return cudaEventCreateWithFlags(e, 0); }
int cudaEventDestroy(void* e) { ENTER(); free(e); st->events--; return leave(success); }
int cudaEventRecord(void* e, struct stream* s) { ENTER(); return leave(success); }
int cudaEventSynchronize(void* e) { ENTER(); flush_all(); return leave(success); }
int cudaEventElapsedTime(float* ms, void* a, void* b) { ENTER(); *ms = 0; return leave(success); }

// Errors.

static const struct { int code; const char *name, *text; } texts[] = {
	{success, "cudaSuccess", "no error"},
	{invalid_value, "cudaErrorInvalidValue", "invalid argument"},
	{out_of_memory, "cudaErrorMemoryAllocation", "out of memory"},
	{insufficient_driver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
	{no_device, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
	{invalid_device, "cudaErrorInvalidDevice", "invalid device ordinal"},
	{device_uninitialized, "cudaErrorDeviceUninitialized", "invalid device context"},
	{invalid_handle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
	{700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
	{719, "cudaErrorLaunchFailure", "unspecified launch failure"},
	{801, "cudaErrorNotSupported", "operation not supported"},
};
static const int known = sizeof texts / sizeof *texts;

const char* cudaGetErrorName(int e) {
	for (int i = 0; i < known; i++) if (texts[i].code == e) return texts[i].name;
	return "cudaErrorUnknown";
}
const char* cudaGetErrorString(int e) {
	for (int i = 0; i < known; i++) if (texts[i].code == e) return texts[i].text;
	return "unknown error";
}
int cudaGetLastError(void) { int e = last; last = success; return e; }
int cudaPeekAtLastError(void) { return last; }
