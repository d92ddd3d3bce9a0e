package ort

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script is a copy of one of the scripts in a checkout of its own, with commands
// that stand in for what it would find on this machine.
type script struct {
	name string
	root string // of the checkout
	bin  string // its commands come first on PATH
}

func newScript(t *testing.T, name string) script {
	t.Helper()
	text, err := os.ReadFile("../../scripts/" + name)
	if err != nil {
		t.Fatal(err)
	}
	s := script{name: name, root: t.TempDir(), bin: t.TempDir()}
	s.write(t, filepath.Join(s.root, "scripts", name), string(text))
	// Nothing is installed, and npm must not be asked, unless a test says so.
	s.command(t, "ldconfig", "exit 0")
	s.command(t, "ls", "exit 2")
	s.command(t, "npm", "echo npm was called >&2; exit 1")
	return s
}

func (s script) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (s script) command(t *testing.T, name, body string) {
	t.Helper()
	s.write(t, filepath.Join(s.bin, name), "#!/bin/sh\n"+body+"\n")
}

// run returns stdout, stderr and the exit status.
func (s script) run(t *testing.T, env ...string) (string, string, int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(filepath.Join(s.root, "scripts", s.name))
	cmd.Env = append(os.Environ(), EnvLibrary+"=", "PATH="+s.bin+":"+os.Getenv("PATH"))
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// cached is where the script keeps the library, which Find knows as cacheDir.
func (s script) cached() string { return filepath.Join(s.root, cacheDir, libraryName) }

func TestScriptCached(t *testing.T) {
	s := newScript(t, "ort.sh")
	s.write(t, s.cached(), "the library")
	if out, errs, code := s.run(t); code != 0 || out != s.cached()+"\n" || errs != "" {
		t.Errorf("exit %d, stdout %q, stderr %q; want its path and silence", code, out, errs)
	}
}

func TestScriptEnvironment(t *testing.T) {
	s := newScript(t, "ort.sh")
	mine := filepath.Join(t.TempDir(), "mine.so")
	s.write(t, mine, "")
	if out, errs, code := s.run(t, EnvLibrary+"="+mine); code != 0 || out != mine+"\n" || strings.Count(errs, "\n") != 1 {
		t.Errorf("exit %d, stdout %q, stderr %q; want its path and one line", code, out, errs)
	}
	if _, errs, code := s.run(t, EnvLibrary+"=/nonexistent/lib.so"); code == 0 || !strings.Contains(errs, "is not a file") {
		t.Errorf("a path that is not there: exit %d, %q", code, errs)
	}
}

func TestScriptInstalled(t *testing.T) {
	for name, fits := range map[string]bool{"libonnxruntime.so.1.24.2": true, "libonnxruntime.so.1.21.0": false} {
		s := newScript(t, "ort.sh")
		dir := t.TempDir()
		s.write(t, filepath.Join(dir, name), "")
		link := filepath.Join(dir, libraryName)
		if err := os.Symlink(name, link); err != nil {
			t.Fatal(err)
		}
		s.command(t, "ldconfig", `echo "	libonnxruntime.so.1 (libc6,x86-64) => `+link+`"`)
		out, errs, code := s.run(t)
		if fits && (code != 0 || out != link+"\n") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q; want it used", name, code, out, errs)
		}
		if !fits && !strings.Contains(errs, "npm was called") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q; want another fetched", name, code, out, errs)
		}
	}
}

// TestScriptTampered: a package that is not the pinned one is never unpacked.
func TestScriptTampered(t *testing.T) {
	s := newScript(t, "ort.sh")
	s.command(t, "npm", "echo evil > onnxruntime-node-1.29.0.tgz")
	s.command(t, "tar", "echo tar was called >&2")
	out, errs, code := s.run(t)
	if code == 0 || out != "" || !strings.Contains(errs, "is not what was pinned") || strings.Contains(errs, "tar was called") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	left, err := os.ReadDir(filepath.Dir(s.cached()))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestScriptCUDA: the provider is fetched beside the library that it goes with,
// unless the package is not the pinned one.
func TestScriptCUDA(t *testing.T) {
	s := newScript(t, "ort-cuda.sh")
	lib := filepath.Join(s.root, cudaCacheDir, libraryName)
	s.write(t, s.cached(), "the library")
	s.command(t, "uname", "echo Linux x86_64")
	s.command(t, "npm", "echo evil > com.github.asus4.onnxruntime.linux-x64-gpu-0.4.9.tgz")
	s.command(t, "tar", "echo tar was called >&2")
	out, errs, code := s.run(t)
	if code == 0 || out != "" || !strings.Contains(errs, "is not what was pinned") || strings.Contains(errs, "tar was called") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
	if left, err := os.ReadDir(filepath.Dir(lib)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	s.command(t, "uname", "echo Linux riscv64")
	if _, errs, code := s.run(t); code == 0 || !strings.Contains(errs, "no provider for Linux riscv64") {
		t.Errorf("on another machine: exit %d, stderr %q", code, errs)
	}
	s.write(t, lib, "the library")
	if out, errs, code := s.run(t); code != 0 || out != lib+"\n" || errs != "" {
		t.Errorf("cached: exit %d, stdout %q, stderr %q; want its path and silence", code, out, errs)
	}
}
