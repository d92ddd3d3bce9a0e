package quant

import (
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

func TestParseOverride(t *testing.T) {
	for s, want := range map[string]Override{
		"*.down_proj.weight=q6_K": {"*.down_proj.weight", "q6_K"},
		"lm_head=none":            {"lm_head", "none"},
	} {
		if got, err := ParseOverride(s); err != nil || got != want || got.String() != s {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for s, says := range map[string]string{
		"lm_head":           "PATTERN=SCHEME",
		"=f16":              "empty",
		"lm_head=":          "unknown",
		"lm_head=q4_K_M":    "recipe",
		"lm_head=int8+orig": "unknown",
		"lm_head=" + WithOriginal(rowInt8{}).Name(): "keep_original",
		"a[=f16": "bracket",
	} {
		if _, err := ParseOverride(s); recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want a usage error that says %q", s, err, says)
		}
	}
}

func TestCheckOverrides(t *testing.T) {
	list := make([]Override, MaxOverrides+1)
	for i := range list {
		list[i] = Override{"*", "none"}
	}
	if err := CheckOverrides(list[:MaxOverrides]); err != nil {
		t.Error(err)
	}
	long := []Override{}
	for range maxOverrideBytes/maxPattern + 1 {
		long = append(long, Override{strings.Repeat("a", maxPattern), "none"})
	}
	for name, bad := range map[string][]Override{"too many": list, "too long": long, "unknown": {{"*", "q9"}}} {
		if err := CheckOverrides(bad); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: %v, want a usage error", name, err)
		}
	}
}
