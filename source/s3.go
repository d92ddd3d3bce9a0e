package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7"

	"github.com/gantry-ml/gantry/recovery"
)

// maxObjects is how many objects a prefix may hold: more is no checkpoint.
const maxObjects = 100_000

// bucket is a prefix in a bucket of an S3 service, or one object and what lies
// beside it. An object is known by its ETag: reads ask for that one only.
type bucket struct {
	web    *web
	core   *minio.Core
	name   string
	prefix string // "" or ends with '/'
	entry  string

	mu     sync.Mutex
	listed map[string]File // what Files found, so that Open need not ask again
}

func openS3(uri string, o Options) (Source, error) {
	n, err := parseS3(uri)
	if err != nil {
		return nil, err
	}
	env, err := s3Environment()
	if err != nil {
		return nil, err
	}
	b := &bucket{name: n.bucket, prefix: n.prefix, entry: n.entry}
	if b.web, b.core, err = newS3(env, o); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *bucket) URI() string   { return "s3://" + b.name + "/" + b.prefix + b.entry }
func (b *bucket) Entry() string { return b.entry }

func (b *bucket) Close() error {
	b.web.conns.CloseIdleConnections()
	return nil
}

// Files lists the objects under the prefix, not those in "folders" below it.
// Who may read objects but not list them is served by looking for the names
// that a checkpoint has.
func (b *bucket) Files(ctx context.Context) ([]File, error) {
	files, err := b.list(ctx)
	if recovery.ClassOf(err) == recovery.NotAllowed {
		found, lookErr := b.lookFor(ctx)
		if lookErr != nil {
			return nil, lookErr
		}
		if len(found) == 0 {
			return nil, err
		}
		files, err = found, nil
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	listed := make(map[string]File, len(files))
	for _, f := range files {
		listed[f.Name] = f
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listed = listed
	return files, nil
}

func (b *bucket) list(ctx context.Context) (files []File, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := newSilence(ctx, b.web.stall)
	defer s.end()
	for o := range b.core.Client.ListObjectsIter(s.ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix}) {
		if o.Err != nil {
			return nil, b.at("list", "", 0, 0, s3Failure(s, o.Err))
		}
		s.wait() // for the next page
		if len(files) > maxObjects {
			return nil, b.at("list", "", 0, 0, recovery.Errorf(recovery.Unsupported, "more than %d objects", maxObjects))
		}
		name := strings.TrimPrefix(o.Key, b.prefix)
		if ValidName(name) && path.Base(name) == name {
			files = append(files, object(name, o))
		}
	}
	return files, ctx.Err()
}

// lookFor asks for each of the names that a checkpoint has, one by one.
func (b *bucket) lookFor(ctx context.Context) (files []File, err error) {
	names := slices.Clone(folderNames)
	if b.entry != "" {
		names = append(names, b.entry)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		f, err := b.stat(ctx, name)
		switch recovery.ClassOf(err) {
		case "":
			files = append(files, f)
		case recovery.NotFound, recovery.NotAllowed: // 403 is also what is not there
		default:
			return nil, err
		}
	}
	return files, nil
}

// object describes a listed or asked-for object.
func object(name string, o minio.ObjectInfo) File {
	return File{Name: name, Size: o.Size, ID: "etag=" + strings.Trim(o.ETag, `"`)}
}

func (b *bucket) stat(ctx context.Context, name string) (File, error) {
	s := newSilence(ctx, b.web.stall)
	defer s.end()
	o, err := b.core.StatObject(s.ctx, b.name, b.prefix+name, minio.StatObjectOptions{})
	if err != nil {
		return File{}, b.at("open", name, 0, 0, s3Failure(s, err))
	}
	if o.Size < 0 || o.ETag == "" {
		return File{}, b.at("open", name, 0, 0, recovery.Errorf(recovery.Unsupported, "the service does not tell its size and ETag"))
	}
	return object(name, o), nil
}

// Open opens an object of the listing, or asks for it.
func (b *bucket) Open(ctx context.Context, name string) (Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !ValidName(name) {
		return nil, leaves(b.URI(), name)
	}
	b.mu.Lock()
	f, ok := b.listed[name]
	b.mu.Unlock()
	if !ok {
		var err error
		if f, err = b.stat(ctx, name); err != nil {
			return nil, b.folder(ctx, name, err)
		}
	}
	return &s3File{b: b, file: f}, nil
}

// folder says of a name that is not there whether it is a prefix of others.
func (b *bucket) folder(ctx context.Context, name string, err error) error {
	if recovery.ClassOf(err) != recovery.NotFound {
		return err
	}
	s := newSilence(ctx, b.web.stall)
	defer s.end()
	below := minio.ListObjectsOptions{Prefix: b.prefix + name + "/", MaxKeys: 1}
	for o := range b.core.Client.ListObjectsIter(s.ctx, b.name, below) {
		failed := s3Failure(s, o.Err)
		switch {
		case o.Err == nil:
			err = b.at("open", name, 0, 0, recovery.Errorf(recovery.NotAllowed, "a folder, not a file"))
		case ctx.Err() != nil, recovery.ShouldRecover(failed):
			err = b.at("list", name, 0, 0, failed)
		}
		break
	}
	return err
}

// at says where an error happened. It does not change errors of contexts.
func (b *bucket) at(op, name string, off, n int64, err error) error {
	var e *recovery.Error
	if !errors.As(err, &e) {
		return err
	}
	where := *e
	where.Op, where.File = op, "s3://"+b.name+"/"+b.prefix+name
	where.Offset, where.Length = off, n
	return &where
}

// s3File reads an object by ranges.
type s3File struct {
	b    *bucket
	file File
}

func (f *s3File) File() File   { return f.file }
func (f *s3File) Close() error { return nil }

// ReadAt implements Reader.
func (f *s3File) ReadAt(ctx context.Context, p []byte, off int64) error {
	return readStream(ctx, f, p, off)
}

// Stream implements Streamer: one request, for this version of the object.
func (f *s3File) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if off < 0 || n < 0 || off > f.file.Size || n > f.file.Size-off {
		return nil, f.b.at("read", f.file.Name, off, n, changed("the range is not in the object, which has %d bytes", f.file.Size))
	}
	if n == 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	s := newSilence(ctx, f.b.web.stall)
	body, err := f.get(s, off, n)
	if err != nil {
		s.end()
		return nil, f.b.at("read", f.file.Name, off, n, err)
	}
	s.heard()
	return &s3Stream{f, s, body, off, n}, nil
}

func (f *s3File) get(s *silence, off, n int64) (io.ReadCloser, error) {
	var o minio.GetObjectOptions
	err := errors.Join(o.SetRange(off, off+n-1), o.SetMatchETag(strings.TrimPrefix(f.file.ID, "etag=")))
	if err != nil {
		return nil, recovery.Errorf(recovery.Internal, "%w", err)
	}
	body, info, header, err := f.b.core.GetObject(s.ctx, f.b.name, f.b.prefix+f.file.Name, o)
	if err != nil {
		return nil, s3Failure(s, err)
	}
	start, stop, size, ok := contentRange(header.Get("Content-Range"))
	switch {
	case object(f.file.Name, info).ID != f.file.ID, ok && size != f.file.Size:
		err = changed("the service has another version of it now")
	case !ok && (off != 0 || info.Size != n), ok && (start != off || stop != off+n):
		err = recovery.Errorf(recovery.Unavailable, "the service sent another range: %.80q", header.Get("Content-Range"))
	}
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return body, nil
}

// s3Stream is the body of an answer.
type s3Stream struct {
	f         *s3File
	s         *silence
	body      io.ReadCloser
	off, left int64
}

func (s *s3Stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	if err := s.s.parent.Err(); err != nil {
		return 0, err // net/http ends what it reads some time later
	}
	s.s.wait()
	n, err := s.body.Read(p[:min(int64(len(p)), s.left)])
	s.s.heard()
	s.off, s.left = s.off+int64(n), s.left-int64(n)
	if err != nil && s.left > 0 {
		return n, s.f.b.at("read", s.f.file.Name, s.off, s.left, s.s.failure(err))
	}
	return n, nil
}

// Close gives the connection back where little is left on it.
func (s *s3Stream) Close() error {
	s.s.wait()
	_, _ = io.CopyN(io.Discard, s.body, 4<<10) // what is left decides about the connection only
	_ = s.body.Close()                         // reading has told all that is to be known
	s.s.end()
	return nil
}

// unknownKeys are the codes for an access key that the service does not know:
// AWS's, with 403, and versitygw's, with 404.
var unknownKeys = []string{minio.InvalidAccessKeyID, "XAdminUserNotFound"}

// s3Failure classifies what a request to the service came to.
func s3Failure(s *silence, err error) error {
	if err == nil {
		return nil
	}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode == 0 {
		return s.failure(err)
	}
	e := &recovery.Error{Err: s3Error{answer.StatusCode, answer.Code}}
	switch code := answer.StatusCode; {
	case recoverable(code), answer.Code == "SlowDown":
		e.Class = recovery.Unreachable
	case answer.Code == minio.NoSuchBucket:
		e.Class, e.Hint = recovery.NotFound, "check the bucket's name, AWS_REGION and AWS_ENDPOINT_URL"
	case slices.Contains(unknownKeys, answer.Code):
		e.Class, e.Hint = recovery.NotAllowed, "check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE)"
	case code == http.StatusNotFound, code == http.StatusGone:
		e.Class, e.Hint = recovery.NotFound, "check the URI"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		e.Class, e.Hint = recovery.NotAllowed, "check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE) and what they may read"
	case code == http.StatusMovedPermanently, answer.Code == "AuthorizationHeaderMalformed":
		e.Class, e.Hint = recovery.NotAllowed, "the bucket is in another region: set AWS_REGION"
	case code == http.StatusPreconditionFailed, code == http.StatusRequestedRangeNotSatisfiable:
		e.Class, e.Err = recovery.SourceChanged, errors.New("the service has another version of it now")
		e.Hint = "load again once nobody writes it"
	default:
		e.Class = recovery.Unsupported
	}
	return e
}

// s3Error is the answer of a service that refuses.
type s3Error struct {
	status int
	code   string
}

func (e s3Error) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the service answered %d %.60s", e.status, e.code))
}
