package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/recovery"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns its exit code. The first SIGINT
// or SIGTERM cancels what is going on and lets it end cleanly; the second
// kills.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	a := &app{stdout: stdout, stderr: stderr}
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exit.Done
	}
	if !a.parsed {
		err = &recovery.Error{Class: recovery.Usage, Err: err, Hint: "see gantry help"}
	}
	fmt.Fprintln(stderr, "gantry:", err)
	if ctx.Err() != nil {
		return exit.Interrupted
	}
	return exit.Code(err)
}
