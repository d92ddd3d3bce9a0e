package messages

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// Prefix begins every subject of Gantry, unless a cluster was given another.
const Prefix = "gantry.v1"

// ProgressSubject is where a worker reports how far a job is. An empty job or
// worker stands for all of them.
func ProgressSubject(prefix, job, worker string) string {
	return prefix + ".progress." + tokenOrAll(job) + "." + tokenOrAll(worker)
}

// EventSubject is where facts of a kind about a job are published. An empty
// job or kind stands for all of them.
func EventSubject(prefix, job string, kind progress.Kind) string {
	return prefix + ".event." + tokenOrAll(job) + "." + tokenOrAll(string(kind))
}

// APISubject is where the micro service answers a verb.
func APISubject(prefix, verb string) string { return prefix + ".api." + verb }

func tokenOrAll(s string) string {
	if s == "" {
		return "*"
	}
	return Token(s)
}

// Token makes a subject token of a name: [A-Za-z0-9_-] stay, everything else
// becomes '_', and a name that had to be changed gets a hash of itself, so
// that two names never share a token by accident.
func Token(name string) string {
	if name != "" && strings.IndexFunc(name, notToken) < 0 {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(name)) // never fails
	safe := strings.Map(func(r rune) rune {
		if notToken(r) {
			return '_'
		}
		return r
	}, name)
	return fmt.Sprintf("%.64s-%016x", safe, h.Sum64())
}

// CheckToken refuses a name that cannot be a token as it is.
func CheckToken(what, name string) error {
	if name == "" || len(name) > 128 || strings.IndexFunc(name, notToken) >= 0 {
		return recovery.Errorf(recovery.Usage, "%s %q: want 1 to 128 of the characters A-Z a-z 0-9 _ -", what, name)
	}
	return nil
}

// CheckPrefix refuses a subject prefix that is not tokens joined by dots.
func CheckPrefix(prefix string) error {
	for token := range strings.SplitSeq(prefix, ".") {
		if CheckToken("subject prefix", token) != nil {
			return recovery.Errorf(recovery.Usage, "subject prefix %q: want tokens of A-Z a-z 0-9 _ - joined by dots", prefix)
		}
	}
	return nil
}

func notToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
}
