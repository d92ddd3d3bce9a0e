package checkpoint

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// ggufSet is a GGUF model by its file names: one file, or the parts that
// llama.cpp's gguf-split writes, PREFIX-00001-of-00003.gguf and so on.
type ggufSet struct {
	prefix string // of the parts; the name of a file that is no part
	of     int    // number of parts; 0 for a file that is no part
}

var ggufPart = regexp.MustCompile(`^(.*)-([0-9]{5})-of-([0-9]{5})\.gguf$`)

// ggufSetOf returns the set that a file belongs to, and the part's number in
// it, from 1.
func ggufSetOf(name string) (set ggufSet, part int) {
	if m := ggufPart.FindStringSubmatch(name); m != nil {
		part, _ = strconv.Atoi(m[2]) // five digits each
		if of, _ := strconv.Atoi(m[3]); of > 0 {
			return ggufSet{m[1], of}, part
		}
	}
	return ggufSet{prefix: name}, 1
}

// name returns the name of a part.
func (s ggufSet) name(part int) string {
	if s.of == 0 {
		return s.prefix
	}
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", s.prefix, part, s.of)
}

// openGGUF opens the GGUF model that a file belongs to, with all its parts.
func openGGUF(ctx context.Context, src source.Source, files []source.File, ix *Index, name string) error {
	set, _ := ggufSetOf(name)
	parts := max(set.of, 1)
	if parts > maxShards {
		return invalid(name, "one of %d parts by its name, at most %d are allowed", parts, maxShards)
	}
	for _, f := range files {
		if s, part := ggufSetOf(f.Name); s == set && (part < 1 || part > parts) {
			return invalid(f.Name, "part %d of %d by its name: there should be no such part", part, parts)
		}
	}
	opened := make([]source.File, parts)
	headers := make([]*gguf.Header, parts)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(openAtOnce)
	for i := range parts {
		g.Go(func() (err error) {
			part := set.name(i + 1)
			opened[i], headers[i], err = readGGUF(gctx, src, part)
			if part != name { // what the user did not name is the checkpoint's fault
				err = shardError(err, name, part)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	model := ggufModel{h: headers[0], file: opened[0].Name}
	as, err := model.translation()
	if err != nil {
		return err
	}
	tensors, room := 0, int64(0)
	for _, h := range headers {
		tensors += len(h.Tensors)
		for i := range h.Tensors {
			room += as.count(&h.Tensors[i])
		}
	}
	if room > gguf.MaxTensors {
		return &recovery.Error{Class: recovery.Unsupported, Op: "open", File: name,
			Err: fmt.Errorf("%d tensors, each expert's counted as one: at most %d are supported", room, gguf.MaxTensors)}
	}
	ix.Tensors = make([]Tensor, 0, room)
	for i, h := range headers {
		ix.addGGUF(opened[i], h, as)
	}
	for i, h := range headers {
		if err := (ggufModel{h, opened[i].Name}).checkPart(set, i, tensors); err != nil {
			return err
		}
	}
	if err := uniqueNames(ix); err != nil {
		return err
	}
	return model.describe(ix, as)
}

func readGGUF(ctx context.Context, src source.Source, name string) (source.File, *gguf.Header, error) {
	r, err := src.Open(ctx, name)
	if err != nil {
		return source.File{}, nil, err
	}
	h, err := gguf.Read(ctx, r)
	return r.File(), h, cmp.Or(err, r.Close())
}

// addGGUF appends a file and its tensors, translated.
func (ix *Index) addGGUF(file source.File, h *gguf.Header, as translation) {
	at := int32(len(ix.Files))
	ix.Files = append(ix.Files, file)
	for _, t := range h.Tensors {
		t.File = at
		ix.Tensors = as.add(ix.Tensors, t)
	}
	ix.say(ggufVersionKey, strconv.FormatUint(uint64(h.Version), 10))
	for _, kv := range h.Metadata {
		ix.say(strings.ToValidUTF8(kv.Key, "\ufffd"), kv.Value.String())
	}
}

// ggufVersionKey is the key, in an Index, of the container's version. No file
// has it: keys of the format begin with other words.
const ggufVersionKey = "gguf.version"

// Keys that gguf-split writes into each part.
const (
	splitCountKey   = "split.count"
	splitNumberKey  = "split.no" // from 0
	splitTensorsKey = "split.tensors.count"
)

// checkPart checks what a part, counted from 0, says about itself against its
// name and against the number of tensors in all parts.
func (m ggufModel) checkPart(set ggufSet, part, tensors int) error {
	count, err := m.int(splitCountKey, maxShards)
	if err != nil {
		return err
	}
	switch {
	case count <= 1 && set.of <= 1:
		return nil // a whole model
	case set.of == 0:
		return invalid(m.file, "one of %d parts by its %s, but its name does not say which: the parts should be named …-00001-of-%05d.gguf and so on", count, splitCountKey, count)
	case count != int64(set.of):
		return invalid(m.file, "part of %d by its name, but its %s is %d", set.of, splitCountKey, count)
	}
	number, err := m.int(splitNumberKey, maxShards)
	if err != nil {
		return err
	}
	if number != int64(part) {
		return invalid(m.file, "part %d by its name, but its %s is %d, counted from 0", part+1, splitNumberKey, number)
	}
	total, err := m.int(splitTensorsKey, maxShards*gguf.MaxTensors)
	if _, said := m.h.Find(splitTensorsKey); err == nil && said && total != int64(tensors) {
		return invalid(m.file, "%d tensors in all parts by its %s, but there are %d", total, splitTensorsKey, tensors)
	}
	return err
}

// uniqueNames refuses a tensor that two parts have, or that another has been
// renamed to.
func uniqueNames(ix *Index) error {
	name, ok := header.Twice(ix.Tensors)
	if !ok {
		return nil
	}
	last := len(ix.Tensors) - 1
	for ix.Tensors[last].Name != name {
		last--
	}
	return invalidTensor(ix.Files[ix.Tensors[last].File].Name, name, "it is there twice")
}
