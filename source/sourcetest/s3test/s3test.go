// Package s3test runs a real S3 service for tests: versitygw over a folder.
package s3test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// The keys that the service knows.
const (
	AccessKey = "gantry-test"
	SecretKey = "gantry-test-secret"
)

// startLimit is how long the service may take until it answers.
const startLimit = 30 * time.Second

// Server is a running service.
type Server struct {
	URL    string // its endpoint
	client *minio.Client
	conns  http.Transport
	cmd    *exec.Cmd
	dir    string
	log    bytes.Buffer
}

// Start starts a service without buckets. It is built first where it is not in
// the cache yet. Close ends it.
func Start() (*Server, error) {
	bin, err := binary()
	if err != nil {
		return nil, err
	}
	s := &Server{}
	if s.dir, err = os.MkdirTemp("", "gantry-s3-"); err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err == nil {
		err = s.launch(bin, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w\n%s", bin, err, s.Close())
	}
	return s, nil
}

func (s *Server) launch(bin, addr string) (err error) {
	s.cmd = exec.Command(bin, "--access", AccessKey, "--secret", SecretKey, "--port", addr, "--quiet", "posix", s.dir)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.URL = "http://" + addr
	s.client, err = minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: "us-east-1", Transport: &s.conns})
	if err != nil {
		return err
	}
	for end := time.Now().Add(startLimit); ; time.Sleep(10 * time.Millisecond) {
		if _, err = s.client.ListBuckets(context.Background()); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// binary returns the service's path.
func binary() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		script := filepath.Join(dir, "scripts", "versitygw.sh")
		if _, err := os.Stat(script); err == nil {
			var errs bytes.Buffer
			cmd := exec.Command(script)
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil {
				return "", fmt.Errorf("%s: %w\n%s", script, err, errs.String())
			}
			return strings.TrimSpace(string(out)), nil
		}
		if dir == "/" {
			return "", fmt.Errorf("scripts/versitygw.sh is in no folder above this one")
		}
	}
}

// freeAddress returns an address that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Close ends the service and removes what it held.
func (s *Server) Close() error {
	s.conns.CloseIdleConnections()
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // it may have ended already
		_ = s.cmd.Wait()         // killed
	}
	return os.RemoveAll(s.dir)
}

// Setenv has AWS's variables name this service, its keys and nothing else.
func (s *Server) Setenv(t testing.TB) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": s.URL, "AWS_ENDPOINT_URL_S3": "", "AWS_ACCESS_KEY_ID": AccessKey, "AWS_SECRET_ACCESS_KEY": SecretKey,
		"AWS_SESSION_TOKEN": "", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "", "AWS_DEFAULT_PROFILE": "",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": "", "HOME": filepath.Dir(none),
	} {
		t.Setenv(k, v)
	}
}

// Bucket makes a bucket.
func (s *Server) Bucket(t testing.TB, name string) {
	t.Helper()
	if err := s.client.MakeBucket(context.Background(), name, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Policy sets a bucket's policy.
func (s *Server) Policy(t testing.TB, bucket, policy string) {
	t.Helper()
	if err := s.client.SetBucketPolicy(context.Background(), bucket, policy); err != nil {
		t.Fatal(err)
	}
}

// Put writes an object.
func (s *Server) Put(t testing.TB, bucket, key string, data []byte) {
	t.Helper()
	if _, err := s.client.PutObject(context.Background(), bucket, key, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

// PutFolder writes the files of a folder, and of those below it, under a
// prefix.
func (s *Server) PutFolder(t testing.TB, bucket, prefix, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil {
			s.Put(t, bucket, prefix+filepath.ToSlash(name), data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
