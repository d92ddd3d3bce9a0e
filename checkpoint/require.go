package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"

	"github.com/gantry-ml/gantry/require"
	"github.com/gantry-ml/gantry/source"
)

// Where a model says what it asks of machines: in a file beside it, in
// metadata of its own files, or in both.
const (
	RequireName     = "gantry.require.json"
	requireKey      = "gantry.require"
	maxRequireBytes = 64 << 10
)

// readRequire reads what the model asks of machines.
func (ix *Index) readRequire(ctx context.Context, src source.Source, files []source.File) error {
	if slices.ContainsFunc(files, func(f source.File) bool { return f.Name == RequireName }) {
		data, err := readAll(ctx, src, RequireName, maxRequireBytes)
		if err != nil {
			return err
		}
		if err := ix.require(RequireName, data); err != nil {
			return err
		}
	}
	if text, ok := ix.Metadata[requireKey]; ok {
		return ix.require(ix.Files[0].Name, []byte(text))
	}
	return nil
}

// require adds requirements, written as JSON in a file of the given name.
func (ix *Index) require(name string, data []byte) error {
	var r require.Requirements
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(&r)
	if _, end := d.Token(); err == nil && end != io.EOF {
		err = errors.New("more follows after the requirements")
	}
	if err == nil {
		err = r.Validate()
	}
	if err == nil {
		ix.Require, err = ix.Require.And(r)
	}
	if err != nil {
		return invalid(name, "%s: %w", requireKey, err)
	}
	return nil
}
