// Package job is the state machine of a load: what has been placed, who may
// do what next, when a rank is whole and the model ready. It is pure: no
// clock, no I/O, no goroutine. The job actor, the in-process Loader and the
// property tests all drive this code; they turn the world into Events and
// carry out Commands.
//
// # Protocol
//
// Any message between driver and worker may be lost, doubled, late or out of
// order. Every command carries what fences it (Ref or Hold), and every
// command has something that tells that it arrived:
//
//	Place   Placed or PlaceFailed, else it is sent again after Options.Answer
//	Seal    Sealed or SealFailed, else it is sent again after Options.Answer
//	Load    its report, or Holding lists it, else it is sent again, with the
//	        same Ref, after Options.Accept; a worker that knows it answers
//	        Accepted. Then Holding must list it until it is reported
//	Revoke  Holding or Accepted still naming the attempt sends it again
//	Free    Placed for a hold that is no longer good, PlaceFailed, and a lost
//	        worker that is up again in the same life send it again
//
// Workers treat a command that they have carried out already as a question to
// be answered again, never as more work. Reports whose Ref or Hold is not the
// current one change nothing.
//
// A suspect worker gets no chunks, its attempts are revoked and dispatched
// elsewhere, and chunks for its ranks wait: also those that others read, once a
// try of theirs has failed. Up again, it is asked again for all that it owes.
// Lost, its ranks are placed anew with the next generation, and only the chunks
// with lost pieces are read again, for those pieces only.
//
// Of replicas (dp) one gets a chunk's piece by its read, and the others by
// copies (Load with From) of what is placed, in a chain (replicas.go). So a
// read is only for what no replica has.
package job
