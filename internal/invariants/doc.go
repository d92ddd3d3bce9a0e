// Package invariants checks lifetimes (closed twice, used after close) in
// builds with the `invariants` tag or the race detector, and costs nothing in
// others. A broken invariant is a bug of ours, so it panics: no input of a
// user's can bring it about.
package invariants
