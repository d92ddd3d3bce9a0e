package main

import (
	"context"
	"path/filepath"

	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// container is a format that models are written in.
type container struct {
	overrides func(*shard.Plan) []quant.Override // what a plan needs besides
	check     func(*shard.Plan) error            // whether it has a layout for what a plan makes
	write     func(ctx context.Context, m *model.Model, path string) (warnings []string, err error)
}

// plan has a plan made with the overrides and what the format needs besides,
// which it adds to them: what the user said comes first. It fails where the
// format has no layout for what the plan makes.
func (c container) plan(overrides *[]quant.Override, build func() (*shard.Plan, error)) (*shard.Plan, error) {
	plan, err := build()
	if err != nil {
		return nil, err
	}
	if more := c.overrides(plan); len(more) > 0 {
		*overrides = append(*overrides, more...)
		if plan, err = build(); err != nil {
			return nil, err
		}
	}
	return plan, c.check(plan)
}

// containers are the formats by the ending of a file's name.
var containers = map[string]container{
	".safetensors": {model.SafetensorsOverrides, model.Exportable, func(ctx context.Context, m *model.Model, path string) ([]string, error) {
		return nil, m.Export(ctx, path)
	}},
	".gguf": {model.GGUFOverrides, model.CheckGGUF, func(ctx context.Context, m *model.Model, path string) ([]string, error) {
		return m.ExportGGUF(ctx, path)
	}},
}

// containerOf returns the format that a path is exported in: a folder gets
// safetensors.
func containerOf(path string) container {
	if c, ok := containers[filepath.Ext(path)]; ok {
		return c
	}
	return containers[".safetensors"]
}
