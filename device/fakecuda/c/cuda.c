// The driver's library, of which the CUDA provider needs only that it is there.
int cuInit(unsigned flags) { return 0; }
