package faults

import (
	"testing"

	"gracerun.io/signals"
)

func TestNoPlanNoFault(t *testing.T) {
	var i *Injector
	if f := i.Before("effect.deliver", signals.TERM); f != (Fault{}) {
		t.Errorf("struck with %+v", f)
	}
	if n := testing.AllocsPerRun(100, func() { i.Before("effect.deliver", signals.TERM) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSkipAndCount(t *testing.T) {
	rules, err := Parse("effect.deliver signal=TERM do=drop skip=2 count=3")
	if err != nil {
		t.Fatal(err)
	}
	i := New(rules)
	said := 0
	i.Say = func(string) { said++ }
	var struck []int
	for n := range 10 {
		i.Before("effect.deliver", signals.KILL) // not what the rule is about
		i.After("effect.deliver", signals.TERM)
		if i.Before("effect.deliver", signals.TERM).Do == Drop {
			struck = append(struck, n)
		}
	}
	if len(struck) != 3 || struck[0] != 2 || struck[2] != 4 {
		t.Errorf("struck at %v, want 2, 3 and 4", struck)
	}
	if said != 3 {
		t.Errorf("said so %d times", said)
	}
}

// TestDice: about as often as the probability says, and at the same occasions
// each time the seed is the same.
func TestDice(t *testing.T) {
	throw := func(seed string) (struck []int) {
		rules, err := Parse("write.log do=crash probability=0.25 seed=" + seed)
		if err != nil {
			t.Fatal(err)
		}
		i := New(rules)
		for n := range 10_000 {
			if i.Before("write.log", 0).Do == Crash {
				struck = append(struck, n)
			}
		}
		return struck
	}
	a, b, c := throw("1"), throw("1"), throw("2")
	if len(a) < 2300 || len(a) > 2700 {
		t.Errorf("struck %d times of 10000 with probability 0.25", len(a))
	}
	if len(a) != len(b) || a[0] != b[0] || a[len(a)-1] != b[len(b)-1] {
		t.Error("one seed struck at different occasions")
	}
	if len(a) == len(c) && a[0] == c[0] && a[len(a)-1] == c[len(c)-1] {
		t.Error("two seeds struck at the same occasions")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"nowhere do=drop", "effect.deliver", "effect.deliver do=drop x=1", "effect.deliver do=error", "write.log do=crash count=-1"} {
		if rules, err := Parse(text); err == nil {
			t.Errorf("%q is read as %+v", text, rules)
		}
	}
}
