// cuRAND, of which the CUDA provider needs only that it is there.
int curandGetVersion(int* v) { *v = 100400; return 0; }
