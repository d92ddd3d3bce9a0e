// NVML for the fake's devices: what device.Detect asks, of GPUs that are all
// alike. They have no links and no instances.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { success = 0, invalid_argument = 2, not_supported = 3, not_found = 6 };
typedef uintptr_t gpu; // 1 for the first

static uint64_t setting(const char* name, uint64_t otherwise) {
	const char* v = getenv(name);
	return v ? strtoull(v, NULL, 10) : otherwise;
}
static uint64_t devices(void) { return setting("FAKECUDA_DEVICES", 1); }

int nvmlInit_v2(void) { return success; }
int nvmlShutdown(void) { return success; }
const char* nvmlErrorString(int e) { return e ? "not supported by the fake" : "success"; }
int nvmlSystemGetDriverVersion(char* v, unsigned n) { snprintf(v, n, "580.0.fake"); return success; }
int nvmlSystemGetCudaDriverVersion(int* v) { *v = setting("FAKECUDA_DRIVER", 13000); return success; }
int nvmlSystemGetCudaDriverVersion_v2(int* v) { return nvmlSystemGetCudaDriverVersion(v); }
int nvmlDeviceGetCount_v2(unsigned* n) { *n = devices(); return success; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, gpu* d) { *d = i + 1; return i < devices() ? success : invalid_argument; }
int nvmlDeviceGetUUID(gpu d, char* v, unsigned n) { snprintf(v, n, "GPU-00000000-0000-0000-0000-%012x", (unsigned)d); return success; }
int nvmlDeviceGetName(gpu d, char* v, unsigned n) { snprintf(v, n, "Fake GPU"); return success; }

struct memory { unsigned long long total, free, used; };

int nvmlDeviceGetMemoryInfo(gpu d, struct memory* m) {
	m->total = m->free = setting("FAKECUDA_MEMORY", 8ull << 30);
	m->used = 0;
	return success;
}

int nvmlDeviceGetCudaComputeCapability(gpu d, int* major, int* minor) { *major = 9, *minor = 0; return success; }

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };

int nvmlDeviceGetPciInfo_v3(gpu d, struct pci* p) {
	memset(p, 0, sizeof *p);
	p->bus = (unsigned)d;
	snprintf(p->bus_id, sizeof p->bus_id, "00000000:%02X:00.0", (unsigned)d);
	return success;
}

int nvmlDeviceGetNvLinkState(gpu d, unsigned link, int* state) { return not_supported; }
