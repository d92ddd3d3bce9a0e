package main

import (
	"fmt"
	"io"

	"github.com/gantry-ml/gantry/cmd/internal/certs"
	"github.com/spf13/cobra"
)

// madeCerts is what `certs init --json` prints.
type madeCerts struct {
	Dir   string   `json:"dir"`
	Hosts []string `json:"hosts"`
	Days  int      `json:"days"`
}

func (a *app) certsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "certs", Short: "Make certificates for a cluster that has none"}
	var hosts []string
	create := &cobra.Command{
		Use:   "init DIR",
		Short: "Make an authority and certificates for nodes and commands",
		Long: `Makes an authority (ca.pem, ca.key), node.pem and node.key for coordinators and
workers at the given hosts and on loopback, and client.pem and client.key for
this command. They are valid for a year. Keep ca.key to yourself: whoever has it
can join the cluster.`,
		Example: `  gantry certs init certs --host 10.0.0.1 --host 10.0.0.2
  worker --nats tls://10.0.0.1:4222 --listen 10.0.0.2:0 --tls-cert certs/node.pem --tls-key certs/node.key --tls-ca certs/ca.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := certs.Init(args[0], hosts); err != nil {
				return err
			}
			made := madeCerts{Dir: args[0], Hosts: nonNil(hosts), Days: int(certs.Validity.Hours() / 24)}
			return a.print(made, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: ca.pem, node.pem and client.pem, with their keys, valid for %d days\n", made.Dir, made.Days)
				return err
			})
		},
	}
	create.Flags().StringArrayVar(&hosts, "host", nil, "name or address at which nodes are reached, besides this machine's own; may be repeated")
	cmd.AddCommand(create)
	return cmd
}
