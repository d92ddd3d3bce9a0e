// Package transfer moves pieces from the worker that read them to the worker
// that owns the rank: a few kept-alive TCP streams per pair, under mutual TLS
// where it leaves the machine, each piece behind a ticket, received straight
// into the arena and believed only after its digest matches. A worker on the
// same machine copies it from the sender's memory instead. It knows nothing of
// plans: loader says where a ticket's bytes go.
package transfer
