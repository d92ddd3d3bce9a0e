// Package source says where a checkpoint's bytes come from. A Source lists
// files and opens them for ranged reads; it knows nothing of tensors. Each
// kind of source is a folder or file of its own, and retry, limits and
// injected faults are decorators around any of them. checkpoint and loader
// call it.
package source
