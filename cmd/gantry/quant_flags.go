package main

import (
	"strings"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/quant/configfile"
	"github.com/gantry-ml/gantry/shard"
	"github.com/spf13/pflag"
)

// quantFlags say what tensors become: --quant (--to for quantize) and what
// refines it.
type quantFlags struct {
	scheme    string
	file      string
	overrides []string
	keep      bool
}

// register adds the flags. name is that of the scheme's.
func (q *quantFlags) register(flags *pflag.FlagSet, name string) {
	flags.StringVar(&q.scheme, name, "", "what weights become: "+schemeNames())
	flags.StringVar(&q.file, "quant-config", "", "YAML or JSON `FILE` with scheme, symmetric, group_size, keep_original, in_place, skip, overrides; flags go before it")
	flags.StringArrayVar(&q.overrides, "quant-override", nil,
		"`PATTERN=SCHEME` for tensors by name, such as '*.down_proj=q6_K' or lm_head=none; the first that matches counts (repeatable)")
	flags.BoolVar(&q.keep, "keep-original", false, "keep the stored elements beside what they become")
}

// schemeNames lists schemes and recipes for help texts.
func schemeNames() string {
	return strings.Join(quant.Forms(), ", ") + "; mixtures as llama.cpp makes them: " + strings.Join(quant.Recipes(), ", ")
}

// config returns what the flags and the file come to. Overrides of flags come
// before those of the file, so that they are the ones that count; a scheme
// takes the place of the file's, with its parameters.
func (q *quantFlags) config() (c quant.Config, err error) {
	if q.file != "" {
		if c, err = configfile.Read(q.file); err != nil {
			return c, err
		}
	}
	if q.scheme != "" {
		c.Scheme, c.Symmetric, c.GroupSize = q.scheme, nil, 0
	}
	c.KeepOriginal = c.KeepOriginal || q.keep
	var list []quant.Override
	for _, s := range q.overrides {
		o, err := quant.ParseOverride(s)
		if err != nil {
			return c, err
		}
		list = append(list, o)
	}
	c.Overrides = append(list, c.Overrides...)
	return c, c.Validate()
}

// apply sets the options of a plan that c comes to.
func apply(c quant.Config, o *shard.Options) (err error) {
	o.Scheme, err = c.Resolve()
	o.Overrides, o.KeepOriginal = c.Overrides, c.KeepOriginal
	return err
}
