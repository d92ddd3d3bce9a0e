// Package require says what a load asks of the machines that it may use, and
// whether a machine has it. It is pure: device detects, actors and loader ask.
package require
