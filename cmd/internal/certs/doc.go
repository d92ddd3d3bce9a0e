// Package certs makes a certificate authority and certificates for a cluster
// that has none of its own: for tests, trials, and networks that one person
// runs. gantry certs calls it.
package certs
