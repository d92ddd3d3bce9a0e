// Package cluster keeps what must outlive a process, on NATS: the embedded
// server, streams and buckets, leases of members and of the leader, the job
// store, the plan store, and the micro service that clients talk to.
//
// Daemons call StartServer or Connect, then Open; the leader calls Serve; the
// command line and tests use Client. Nothing here knows how a load works, and
// no weight byte passes through it. Errors carry a recovery.Class: Stale where
// somebody else wrote first, ClusterLost where NATS does not answer, NotAllowed
// where it refuses a subject to its user.
package cluster
