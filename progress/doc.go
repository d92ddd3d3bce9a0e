// Package progress defines the stages of a load, their weights, and the
// update that a caller or a subscriber sees. It is a leaf: it imports nothing
// of Gantry and sends nothing anywhere.
package progress
