package cluster

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/recovery"
)

// Plans keeps JSON documents, indexes and plans, by their digest: xxh3-128 of
// the bytes, in hex. They are kept for a week after they were last put.
type Plans struct {
	objects jetstream.ObjectStore
}

// refresh is the age from which a document that is put again is written again.
const refresh = plansAge / 2

// The time that the first try to read a document has, and the last about.
const (
	firstRead = time.Second
	lastRead  = 30 * time.Second
)

// PutIndex stores an index and returns its digest. Storing it again is no
// error.
func (p *Plans) PutIndex(ctx context.Context, ix *checkpoint.Index) (string, error) {
	data, err := json.Marshal(ix)
	if err != nil {
		return "", classify("store index", err)
	}
	return p.Put(ctx, data)
}

// Index returns the index with the given digest.
func (p *Plans) Index(ctx context.Context, digest string) (*checkpoint.Index, error) {
	data, err := p.Get(ctx, digest)
	if err != nil {
		return nil, err
	}
	ix := new(checkpoint.Index)
	if err := json.Unmarshal(data, ix); err != nil {
		return nil, classify("read index "+digest, err)
	}
	return ix, nil
}

// Put stores a document and returns its digest.
func (p *Plans) Put(ctx context.Context, data []byte) (string, error) {
	digest := digestOf(data)
	info, err := p.objects.GetInfo(ctx, digest)
	if err == nil && time.Since(info.ModTime) < refresh {
		return digest, nil
	}
	if err == nil || errors.Is(err, jetstream.ErrObjectNotFound) {
		_, err = p.objects.PutBytes(ctx, digest, data)
	}
	return digest, classify("store plan "+digest, err)
}

// Get returns the document with the given digest, and checks that it is it.
func (p *Plans) Get(ctx context.Context, digest string) ([]byte, error) {
	data, err := p.read(ctx, digest)
	if err != nil {
		return nil, classify("read plan "+digest, err)
	}
	if got := digestOf(data); got != digest {
		return nil, &recovery.Error{Class: recovery.DigestMismatch, Op: "read plan " + digest, Err: errors.New("its bytes have the digest " + got)}
	}
	return data, nil
}

// read reads a document. Where somebody puts it anew meanwhile, the parts that
// this read waits for are gone: it begins again, with twice the time.
func (p *Plans) read(ctx context.Context, digest string) (data []byte, err error) {
	for limit := firstRead; ; limit *= 2 {
		try, cancel := context.WithTimeout(ctx, limit)
		data, err = p.objects.GetBytes(try, digest)
		cancel()
		if err == nil || errors.Is(err, jetstream.ErrObjectNotFound) || ctx.Err() != nil || limit > lastRead {
			return data, err
		}
	}
}

func digestOf(data []byte) string {
	sum := xxh3.Hash128(data).Bytes()
	return hex.EncodeToString(sum[:])
}
