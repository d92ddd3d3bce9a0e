package source

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

// TestLinkedNames reads pages as common servers write them.
func TestLinkedNames(t *testing.T) {
	dir := &url.URL{Scheme: "http", Host: "h", Path: "/m/"}
	for name, c := range map[string]struct{ page, want string }{
		"nginx":         {`<html><pre><a href="../">../</a><a href="b-00001-of-00002.gguf">b</a> 25-Nov-2026 10:00 8`, "b-00001-of-00002.gguf"},
		"Apache":        {`<tr><td><a href="?C=N;O=D">Name</a></td></tr><td><A HREF='/m/x.safetensors'>x</A>`, "x.safetensors"},
		"Python":        {`<li><a href="a%20b.gguf">a b.gguf</a></li><li><a href="q&amp;a.onnx">q&amp;a.onnx</a>`, "a b.gguf q&a.onnx"},
		"absolute":      {`<a class=x href="http://h/m/y.gguf">`, "y.gguf"},
		"twice":         {`<a href="y.gguf"><a href="./y.gguf">`, "y.gguf"},
		"another host":  {`<a href="http://other/m/y.gguf"><a href="//other/m/z.gguf">`, ""},
		"out of it":     {`<a href="../y.gguf"><a href="/y.gguf"><a href="..%2fy.gguf"><a href="sub/y.gguf">`, ""},
		"not weights":   {`<a href="README.md"><a href="y.gguf?raw=1"><a href="y.gguf.html">`, ""},
		"malformed":     {`<a href="%zz.gguf"><a href=""><a href>`, ""},
		"no page of it": {`{"href": "y.gguf"}`, ""},
	} {
		if got := linkedNames(c.page, dir); strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// FuzzLinkedNames: whatever the page, its names stay in the folder, sorted.
func FuzzLinkedNames(f *testing.F) {
	f.Add(`<a href="b.gguf"><a href='../c.onnx'><a href="%2e%2e/d.gguf">`)
	dir := &url.URL{Scheme: "http", Host: "h", Path: "/m/"}
	f.Fuzz(func(t *testing.T, page string) {
		names := linkedNames(page, dir)
		if !slices.IsSorted(names) {
			t.Errorf("%q", names)
		}
		for _, n := range names {
			if !ValidName(n) || strings.Contains(n, "/") {
				t.Errorf("%q leaves the folder", n)
			}
		}
	})
}
