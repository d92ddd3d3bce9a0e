package device

// CPU is the id of the host's device.
const CPU = "cpu"

const cudaPrefix = "cuda:"
