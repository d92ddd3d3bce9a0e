package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/gantry-ml/gantry/cmd/internal/node"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/spf13/cobra"
)

// app is what every verb shares: where to write, and the global flags.
type app struct {
	stdout, stderr io.Writer
	json           bool
	server         string        // NATS URL of a running cluster; "" runs in this process
	security       node.Security // towards that cluster
	parsed         bool          // the command line was understood
}

// command builds the tree of verbs.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gantry COMMAND",
		Short: "Load large models onto clusters: planned, read once, quantized, placed",
		Long: `Gantry puts a large model's weights where they will be used: one plan for the
whole cluster, each stored byte read once, transformed once, placed where it
belongs. MODEL is a file, a folder, or a URI (http, https, hf, s3). Without
--server a command that loads does everything in this process and opens no
port.

Exit codes: 0 done, 1 load failed, 2 wrong usage, 3 invalid or unsupported
checkpoint, or bytes that differ from its digests, 4 source not reachable, not found or not allowed, 5 does not fit or
the device is not there, 6 cluster not reachable, 130 interrupted.`,
		Example: `  gantry synth ./model --size 1GiB
  gantry plan ./model --tp 2 --quant q8_0
  gantry load ./model --tp 2 --quant q8_0 --once`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.parsed = true
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "print one JSON value on stdout")
	flags.StringVar(&a.server, "server", "", "NATS `URL` of a running cluster, such as nats://127.0.0.1:4222")
	flags.StringVar(&a.security.NATSCreds, "nats-creds", "", "NATS credentials `FILE`")
	flags.StringVar(&a.security.NATSUser, "nats-user", "", "user of a NATS server that has users")
	flags.StringVar(&a.security.NATSPasswordFile, "nats-password-file", "", "`FILE` that holds the user's password")
	flags.StringVar(&a.security.Cert, "tls-cert", "", "PEM `FILE` of a certificate for --server, or for up to serve with (gantry certs init makes some)")
	flags.StringVar(&a.security.Key, "tls-key", "", "PEM `FILE` of its key")
	flags.StringVar(&a.security.CA, "tls-ca", "", "PEM `FILE` of the authority that signed the cluster's certificates")
	root.AddCommand(
		a.inspectCommand(), a.planCommand(), a.loadCommand(), a.runCommand(), a.quantizeCommand(), a.synthCommand(), a.verifyCommand(),
		a.upCommand(), a.statusCommand(), a.jobsCommand(), a.modelsCommand(), a.workersCommand(),
		a.certsCommand(), a.cancelCommand(), a.unloadCommand(), a.swapCommand(), a.watchCommand(), a.exportCommand(), a.doctorCommand(), a.versionCommand(),
	)
	return root
}

// print writes a result: v as JSON with --json, otherwise what text writes.
func (a *app) print(v any, text func(w io.Writer) error) error {
	if a.json {
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return text(a.stdout)
}

// usagef is an error in how the command was called.
func usagef(format string, args ...any) error {
	return recovery.Errorf(recovery.Usage, format, args...)
}

// plural writes "1 file", "2 files".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
