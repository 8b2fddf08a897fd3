// Package lifecycle holds the conformance of OCI runtimes to the lifecycle of the
// OCI runtime specification: one table of cases for runc, crun and
// gracerun-native, and for gracerun over each of them.
package lifecycle

import (
	"os"
	"slices"
	"testing"
)

func TestLifecycle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make containers of these kinds; TestRootless is for others")
	}
	for _, r := range runtimes() {
		t.Run(r.name, func(t *testing.T) {
			if r.missing != "" {
				t.Skip(r.missing)
			}
			t.Log(r.version)
			for _, tc := range slices.Concat(cases, hookCases) {
				t.Run(tc.name, func(t *testing.T) {
					t.Parallel()
					known := deviationOf(r, tc.name)
					switch err := tc.check(newContainer(t, r)); {
					case err != nil && known != nil:
						t.Logf("known deviation: %s (%v)", known.reason, err)
					case err != nil:
						t.Errorf("%s: %v", tc.section, err)
					case known != nil:
						t.Errorf("is no deviation any more: %s", known.reason)
					}
				})
			}
		})
	}
}
