package main

import (
	"strings"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
	"github.com/spf13/pflag"
)

// quantFlags say what tensors become: --quant (--to for quantize) and what
// refines it.
type quantFlags struct {
	scheme    string
	overrides []string
	keep      bool
}

// register adds the flags. name is that of the scheme's.
func (q *quantFlags) register(flags *pflag.FlagSet, name string) {
	flags.StringVar(&q.scheme, name, "", "what weights become: "+schemeNames())
	flags.StringArrayVar(&q.overrides, "quant-override", nil,
		"`PATTERN=SCHEME` for tensors by name, such as '*.down_proj=q6_K' or lm_head=none; the first that matches counts (repeatable)")
	flags.BoolVar(&q.keep, "keep-original", false, "keep the stored elements beside what they become")
}

// schemeNames lists schemes and recipes for help texts.
func schemeNames() string {
	return strings.Join(quant.Forms(), ", ") + "; mixtures as llama.cpp makes them: " + strings.Join(quant.Recipes(), ", ")
}

// config returns what the flags come to.
func (q *quantFlags) config() (quant.Config, error) {
	c := quant.Config{Scheme: q.scheme, KeepOriginal: q.keep}
	for _, s := range q.overrides {
		o, err := quant.ParseOverride(s)
		if err != nil {
			return c, err
		}
		c.Overrides = append(c.Overrides, o)
	}
	return c, c.Validate()
}

// apply sets the options that the flags come to.
func (q *quantFlags) apply(o *shard.Options) error {
	c, err := q.config()
	if err != nil {
		return err
	}
	o.Scheme, err = c.Resolve()
	o.Overrides, o.KeepOriginal = c.Overrides, c.KeepOriginal
	return err
}
