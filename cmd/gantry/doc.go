// Command gantry is what people type: it looks at checkpoints, plans, loads,
// quantizes, and talks to a cluster. One file per verb. Results go to stdout,
// progress and errors to stderr; exit codes are those of cmd/internal/exit.
package main
