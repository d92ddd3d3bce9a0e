package messages

import (
	"testing"

	"github.com/gantry-ml/gantry/progress"
)

func TestToken(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "A-b_9", "a.b", "a_b", "a b", "", "*", ">", "模型", "a\x00b"} {
		token := Token(name)
		if CheckToken("token", token) != nil {
			t.Errorf("Token(%q) = %q is no token", name, token)
		}
		if other, taken := seen[token]; taken {
			t.Errorf("%q and %q share the token %q", name, other, token)
		}
		seen[token] = name
	}
	if Token("A-b_9") != "A-b_9" {
		t.Error("a name that is a token was changed")
	}
}

func TestSubjects(t *testing.T) {
	for got, want := range map[string]string{
		ProgressSubject(Prefix, "j", "w"):           "gantry.v1.progress.j.w",
		ProgressSubject(Prefix, "j", ""):            "gantry.v1.progress.j.*",
		EventSubject(Prefix, "j", progress.Started): "gantry.v1.event.j.started",
		EventSubject("x.y", "", ""):                 "x.y.event.*.*",
		APISubject(Prefix, "load"):                  "gantry.v1.api.load",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
