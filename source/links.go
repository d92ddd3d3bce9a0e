package source

import (
	"context"
	"html"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Limits on what is believed of a folder's page.
const (
	maxPage  = 4 << 20 // bytes
	maxLinks = 8192
)

// weightEndings are those of files that a folder's page is looked through for.
var weightEndings = []string{".safetensors", ".safetensors.index.json", ".gguf", ".onnx"}

var hrefs = regexp.MustCompile(`(?i)<a\s[^>]*?href\s*=\s*(?:"([^"]*)"|'([^']*)')`)

// linked returns the names of weight files that the folder's page links to,
// sorted. Common servers (nginx, Apache, Python, Go) answer for a folder with
// a page of links; one that answers with anything else has no listing, which
// is no error.
func (s *website) linked(ctx context.Context) ([]string, error) {
	a, err := s.web.get(ctx, s.dir, http.Header{})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if a.StatusCode != http.StatusOK || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
		return nil, nil
	}
	page, err := io.ReadAll(io.LimitReader(a, maxPage))
	if err != nil {
		return nil, a.failure(err)
	}
	return linkedNames(string(page), a.Request.URL), nil
}

// linkedNames returns the weight files of the folder dir that a page links to.
func linkedNames(page string, dir *url.URL) []string {
	var names []string
	for _, m := range hrefs.FindAllStringSubmatch(page, maxLinks) {
		u, err := dir.Parse(html.UnescapeString(m[1] + m[2]))
		if err != nil || u.Scheme != dir.Scheme || u.Host != dir.Host || u.RawQuery != "" {
			continue
		}
		name, below := strings.CutPrefix(u.Path, dir.Path)
		isWeight := slices.ContainsFunc(weightEndings, func(end string) bool { return strings.HasSuffix(name, end) })
		if below && isWeight && path.Base(name) == name && ValidName(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
