// Package header is what the parsers of checkpoint's formats share: the Tensor
// that they fill in and an Index holds, the search for a name that is there
// twice, and the Budget that keeps what a header makes them allocate in
// proportion to its size. It reads nothing. The formats and checkpoint call it.
package header
