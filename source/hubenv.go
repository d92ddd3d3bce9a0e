package source

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// defaultHub is where hf:// leads without HF_ENDPOINT.
const defaultHub = "https://huggingface.co"

// hubName is a model of a hub at a revision, or one file of it.
type hubName struct {
	org, name, rev string
	file           string // slash-separated; "" for the model's folder
}

var hubPart = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$`)

// hubEndings are those of files that a URI may name.
var hubEndings = []string{".gguf", ".safetensors", ".onnx"}

// parseHub reads hf://org/name[@rev][/file]. A revision is a branch, tag or
// commit; one with slashes is refs/pr/N or refs/convert/KIND where a file
// follows (as in huggingface_hub's HfFileSystem), else any.
func parseHub(uri string) (hubName, error) {
	_, rest, _ := strings.Cut(uri, "://")
	org, rest, _ := strings.Cut(rest, "/")
	end := strings.IndexAny(rest+"/", "@/")
	n := hubName{org: org, name: rest[:end], rev: "main"}
	if rest = rest[end:]; strings.HasPrefix(rest, "@") {
		parts := strings.Split(rest[1:], "/")
		of := len(parts)
		if slices.Contains(hubEndings, path.Ext(rest)) && of > 1 {
			if of = 1; parts[0] == "refs" && len(parts) > 3 {
				of = 3
			}
		}
		n.rev, rest = strings.Join(parts[:of], "/"), strings.Join(parts[of:], "/")
	}
	n.file = strings.TrimPrefix(rest, "/")
	good := n.file == "" || ValidName(n.file) && slices.Contains(hubEndings, path.Ext(n.file)) && !strings.ContainsAny(n.file, "?#%")
	if !good || !hubPart.MatchString(n.org) || !hubPart.MatchString(n.name) || !ValidName(n.rev) || strings.ContainsAny(n.rev, "?#%@:") {
		return hubName{}, recovery.Errorf(recovery.Usage, "%s is no model of a hub: want hf://org/name or hf://org/name@revision, and, for one file of it, /file.gguf behind that", redact(uri))
	}
	return n, nil
}

func (n hubName) String() string {
	s := "hf://" + n.org + "/" + n.name
	if n.rev != "main" {
		s += "@" + n.rev
	}
	if n.file != "" {
		s += "/" + n.file
	}
	return s
}

// openHub opens what an hf:// URI names: at the hub or, where HF_HUB_OFFLINE
// is set, in the local cache. The variables are those of huggingface_hub.
func openHub(uri string, o Options) (Source, error) {
	n, err := parseHub(uri)
	if err != nil {
		return nil, err
	}
	if slices.Contains([]string{"1", "on", "true", "yes"}, strings.ToLower(os.Getenv("HF_HUB_OFFLINE"))) {
		return openCached(n, o)
	}
	endpoint := os.Getenv("HF_ENDPOINT")
	if endpoint == "" {
		endpoint = defaultHub
	}
	u, err := url.Parse(strings.TrimSuffix(endpoint, "/") + "/")
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" {
		return nil, recovery.Errorf(recovery.Usage, "HF_ENDPOINT is no URL of a hub: want https://host, without user or query")
	}
	token, err := hubToken()
	if err != nil {
		return nil, err
	}
	return newHub(n, u, token, o)
}

// hubHome is where huggingface_hub keeps token and cache.
func hubHome() (string, error) {
	if home := os.Getenv("HF_HOME"); home != "" {
		return home, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", recovery.Errorf(recovery.Usage, "there is no folder for caches: set HF_HOME (%w)", err)
	}
	return filepath.Join(cache, "huggingface"), nil
}

// hubToken returns the user's token, or "" where he has none.
func hubToken() (string, error) {
	if t := strings.TrimSpace(os.Getenv("HF_TOKEN")); t != "" {
		return t, nil
	}
	file := os.Getenv("HF_TOKEN_PATH")
	asked := file != ""
	if !asked {
		home, err := hubHome()
		if err != nil {
			return "", nil // no home, no token: models that need none can be read
		}
		file = filepath.Join(home, "token")
	}
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) && !asked {
		return "", nil
	}
	if err != nil {
		return "", fileError("read the hub's token", file, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// hubCache returns the folder of a model in the local cache.
func hubCache(n hubName) (string, error) {
	cache := os.Getenv("HF_HUB_CACHE")
	if cache == "" {
		home, err := hubHome()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(home, "hub")
	}
	return filepath.Join(cache, "models--"+n.org+"--"+n.name), nil
}

// openCached opens a snapshot in the local cache:
// models--ORG--NAME/snapshots/COMMIT, where refs/REV holds the commit.
func openCached(n hubName, o Options) (Source, error) {
	repo, err := hubCache(n)
	if err != nil {
		return nil, err
	}
	commit := n.rev
	if ref, err := os.ReadFile(filepath.Join(repo, "refs", n.rev)); err == nil {
		commit = strings.TrimSpace(string(ref))
	}
	if !hubPart.MatchString(commit) {
		return nil, notCached(n)
	}
	s, err := openLocal(filepath.Join(repo, "snapshots", commit, filepath.FromSlash(n.file)), o)
	if recovery.ClassOf(err) == recovery.NotFound {
		return nil, notCached(n)
	}
	return s, err
}

func notCached(n hubName) error {
	e := recovery.Errorf(recovery.NotFound, "it is not in the local cache, and HF_HUB_OFFLINE is set")
	e.Op, e.File, e.Hint = "open", n.String(), "unset HF_HUB_OFFLINE, or download the model"
	return e
}
