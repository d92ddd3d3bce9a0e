// Package digests writes and reads gantry.digests.json, the file beside a
// checkpoint that says what its bytes should be: of each file the xxh3-128 of
// every 4 MiB and the sum of what comes before its tensors; of each tensor the
// xxh3-64 of every unit, about 64 KiB of whole rows.
//
// Blocks are for who reads whole files: verify. Units are for loads. A load
// reads chunks, which end where rows do, in any order and on several workers,
// and no hash of a 4 MiB block can be put together from parts that different
// workers have read. Units end where rows do too, and chunks at units wherever
// they can, so that each is checked by the one that reads it, while it is in
// the cache, and no byte is read twice.
//
// It opens checkpoints and hashes; it decides nothing about a mismatch.
// loader, model, synth and the command call it.
package digests
