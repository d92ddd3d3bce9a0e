// Package job is the state machine of a load: what has been placed, who may
// do what next, when a rank is whole and the model ready. It is pure: no
// clock, no I/O, no goroutine. The job actor, the in-process Loader and the
// property tests all drive this code; they turn the world into Events and
// carry out Commands.
package job
