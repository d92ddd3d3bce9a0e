// Package daemon is what the long-running commands have in common: settings
// from flags, GANTRY_* and a YAML file; logs; telemetry; signals; the ready
// line; exit codes.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/cmd/internal/node"
	"github.com/gantry-ml/gantry/cmd/internal/version"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/telemetry"
)

// Service is a running daemon.
type Service interface {
	Line() string           // its addresses
	Ended() <-chan struct{} // closed when it has ended by itself
	Err() error             // why
	Close() error
}

// Daemon is one of the daemons.
type Daemon struct {
	Name    string // "worker"
	Short   string
	Example string // command lines, indented by two
	Flags   func(*pflag.FlagSet)
	Start   func(ctx context.Context, s Settings, t *telemetry.Telemetry) (Service, error)
}

// Settings are the daemon's settings, by the names of its flags.
type Settings struct{ k *koanf.Koanf }

// String, Int, Bool and Duration return a setting of that type.
func (s Settings) String(name string) string { return s.k.String(name) }
func (s Settings) Int(name string) int       { return s.k.Int(name) }
func (s Settings) Bool(name string) bool     { return s.k.Bool(name) }

func (s Settings) Duration(name string) time.Duration { return s.k.Duration(name) }

// Strings returns a list. In the environment it is separated by commas.
func (s Settings) Strings(name string) []string {
	values := s.k.Strings(name)
	if one, ok := s.k.Get(name).(string); ok {
		values = strings.Split(one, ",")
	}
	var out []string
	for _, v := range values {
		if v = strings.TrimSpace(v); v != "" {
			out = append(out, v)
		}
	}
	return out
}

// Security returns what SecurityFlags has been set to.
func (s Settings) Security() node.Security {
	return node.Security{
		Cert: s.String("tls-cert"), Key: s.String("tls-key"), CA: s.String("tls-ca"),
		NATSCreds: s.String("nats-creds"), NATSUser: s.String("nats-user"), NATSPasswordFile: s.String("nats-password-file"), Insecure: s.Bool("insecure"),
	}
}

// SecurityFlags adds the flags that both daemons have.
func SecurityFlags(f *pflag.FlagSet) {
	f.String("tls-cert", "", "PEM file of this node's certificate, for serving and calling")
	f.String("tls-key", "", "PEM file of its key")
	f.String("tls-ca", "", "PEM file of the authority that signed the other nodes' certificates")
	f.String("nats-creds", "", "credentials file for an external NATS server")
	f.String("nats-user", "", "user of a NATS server that has users")
	f.String("nats-password-file", "", "file that holds the user's password")
	f.Bool("insecure", false, "allow addresses beyond loopback without TLS")
}

// Main runs the daemon with the process's arguments and returns its exit code.
func (d Daemon) Main() int {
	return d.run(os.Args[1:], os.Stdout, os.Stderr)
}

func (d Daemon) run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := &cobra.Command{
		Use: d.Name, Short: d.Short, Example: d.Example, Version: version.Version,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return d.usage(err)
			}
			return nil
		},
		Long: d.Short + "\n\nEvery flag may be set as GANTRY_NAME in the environment or as name in the YAML file --config, too.\nA flag wins over the environment, which wins over the file.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings(cmd.Flags())
			if err != nil {
				return err
			}
			return d.serve(cmd.Context(), s, stderr)
		},
		SilenceErrors: true, SilenceUsage: true,
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return d.usage(err)
	})
	cmd.Flags().SortFlags = false
	d.Flags(cmd.Flags())
	SecurityFlags(cmd.Flags())
	cmd.Flags().String("config", "", "YAML file with settings")
	cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", d.Name, strings.Join(strings.Fields(err.Error()), " "))
	}
	return exit.Code(err)
}

// usage is an error in how the daemon was called.
func (d Daemon) usage(err error) error {
	return &recovery.Error{Class: recovery.Usage, Err: err, Hint: "see " + d.Name + " --help"}
}

// settings merges the file, the environment and the flags.
func settings(flags *pflag.FlagSet) (Settings, error) {
	k := koanf.New("\x00") // names have no levels
	path, err := flags.GetString("config")
	if err != nil {
		return Settings{}, err
	}
	if path == "" {
		path = os.Getenv("GANTRY_CONFIG")
	}
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return Settings{}, &recovery.Error{Class: recovery.Usage, Op: "read settings", File: path, Err: err}
		}
		for _, name := range k.Keys() {
			if flags.Lookup(name) == nil {
				return Settings{}, &recovery.Error{Class: recovery.Usage, Op: "read settings", File: path, Err: fmt.Errorf("there is no setting %q", name)}
			}
		}
	}
	fromEnv := env.Provider("\x00", env.Opt{Prefix: "GANTRY_", TransformFunc: func(name, value string) (string, any) {
		name = strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "GANTRY_")), "_", "-")
		if flags.Lookup(name) == nil {
			return "", nil // another program's, or a test's
		}
		return name, value
	}})
	if err := k.Load(fromEnv, nil); err != nil {
		return Settings{}, recovery.Errorf(recovery.Usage, "read GANTRY_ environment: %w", err)
	}
	if err := k.Load(posflag.Provider(flags, "\x00", k), nil); err != nil {
		return Settings{}, recovery.Errorf(recovery.Usage, "read flags: %w", err)
	}
	return Settings{k}, nil
}

// serve starts the daemon, says that it is ready, and runs it until a signal
// comes or it ends by itself. SIGTERM and an interrupt end it cleanly.
func (d Daemon) serve(ctx context.Context, s Settings, stderr io.Writer) (err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.String("log-level"))); err != nil {
		return recovery.Errorf(recovery.Usage, "--log-level %q: want debug, info, warn or error", s.String("log-level"))
	}
	slog.SetDefault(slog.New(telemetry.LogHandler(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))))
	t, err := telemetry.Start(ctx, telemetry.Options{Service: d.Name, Version: version.Version})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Shutdown(context.WithoutCancel(ctx))) }()
	service, err := d.Start(ctx, s, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	fmt.Fprintf(stderr, "%s ready: pid=%d %s\n", d.Name, os.Getpid(), service.Line())
	select {
	case <-ctx.Done():
		slog.Info("stopping")
		return nil
	case <-service.Ended():
		return service.Err()
	}
}
