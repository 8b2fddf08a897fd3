// Package localtime tells the local time where package time does not: by a TZ
// that spells a time zone's rules out, as POSIX has it (EST5EDT,M3.2.0,M11.1.0),
// which package time takes for UTC. All else is left to that.
//
// Source of truth: POSIX.1-2024, Base Definitions, 8.3 (TZ), and RFC 9636, 3.3.1,
// for hours beyond 24.
package localtime

import (
	"syscall"
	"time"
)

// rules are those of TZ; has says that there are some.
var (
	rules zone
	has   bool
)

func init() {
	tz, set := syscall.Getenv("TZ")
	// Package time has found a file of this name, unless it says UTC.
	if set && time.Local.String() == "UTC" {
		rules, has = parse(tz)
	}
}

// Clock gives the local time of what time.Now gave, as a Time whose location says
// nothing, and how many seconds it is ahead of UTC.
func Clock(t time.Time) (local time.Time, offset int) {
	if !has {
		_, offset = t.Zone()
		return t, offset
	}
	offset = rules.offset(t.Unix())
	return t.UTC().Add(time.Duration(offset) * time.Second), offset
}

// zone is a time zone that POSIX rules describe. Offsets are seconds ahead of UTC.
type zone struct {
	standard, summer int
	hasSummer        bool
	begin, end       change // of summer
}

// change is the day of each year on which the offset changes.
type change struct {
	kind            byte // 'J': day 1 to 365, no leap day; 'D': day 0 to 365; 'M'
	day             int  // of the year; of the week, 0 is Sunday
	month, week     int  // week 5 is the last
	secondsOfTheDay int  // by the clock before the change; may be of other days
}

// offset is how far the zone is ahead of UTC at an instant.
func (z *zone) offset(unix int64) int {
	if !z.hasSummer {
		return z.standard
	}
	year := time.Unix(unix, 0).UTC().Add(time.Duration(z.standard) * time.Second).Year()
	begin := z.begin.in(year) - int64(z.standard)
	end := z.end.in(year) - int64(z.summer)
	summer := begin <= unix && unix < end
	if begin > end { // the southern half
		summer = unix < end || begin <= unix
	}
	if summer {
		return z.summer
	}
	return z.standard
}

// in gives the instant of the change in a year, as if the local time were UTC.
func (c *change) in(year int) int64 {
	midnight := func(month time.Month, day int) time.Time { return time.Date(year, month, day, 0, 0, 0, 0, time.UTC) }
	var day time.Time
	switch c.kind {
	case 'J':
		day = midnight(time.January, c.day)
		if leap := midnight(time.March, 0).Day() == 29; leap && c.day >= 60 {
			day = midnight(time.January, c.day+1)
		}
	case 'D':
		day = midnight(time.January, 1+c.day)
	default:
		first := midnight(time.Month(c.month), 1)
		of := 1 + (c.day-int(first.Weekday())+7)%7 + 7*(c.week-1)
		if last := midnight(time.Month(c.month)+1, 0).Day(); of > last {
			of -= 7
		}
		day = midnight(time.Month(c.month), of)
	}
	return day.Unix() + int64(c.secondsOfTheDay)
}

// usual is when summer is if TZ does not say it: as in the USA, as glibc has it.
const usual = ",M3.2.0,M11.1.0"

// parse reads a TZ; a colon before it makes no difference, as with glibc.
func parse(tz string) (z zone, ok bool) {
	p := parser{tz}
	p.take(':')
	if !p.name() || !p.offset(&z.standard, 24) {
		return zone{}, false
	}
	z.standard = -z.standard
	if p.rest == "" {
		return z, true
	}
	z.hasSummer, z.summer = true, z.standard+3600
	if !p.name() {
		return zone{}, false
	}
	if p.rest != "" && p.rest[0] != ',' {
		if !p.offset(&z.summer, 24) {
			return zone{}, false
		}
		z.summer = -z.summer
	}
	if p.rest == "" {
		p.rest = usual
	}
	if !p.change(&z.begin) || !p.change(&z.end) || p.rest != "" {
		return zone{}, false
	}
	return z, true
}

type parser struct{ rest string }

func (p *parser) take(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// name passes over the name of a time: letters, or with digits and signs between
// < and >.
func (p *parser) name() bool {
	quoted := p.take('<')
	n := 0
	for n < len(p.rest) {
		c := p.rest[n]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && !(quoted && (c >= '0' && c <= '9' || c == '+' || c == '-')) {
			break
		}
		n++
	}
	p.rest = p.rest[n:]
	return n >= 3 && (!quoted || p.take('>'))
}

// number reads digits, up to most.
func (p *parser) number(to *int, least, most int) bool {
	n, value := 0, 0
	for n < len(p.rest) && n < 4 && p.rest[n] >= '0' && p.rest[n] <= '9' {
		value = 10*value + int(p.rest[n]-'0')
		n++
	}
	p.rest, *to = p.rest[n:], value
	return n > 0 && value >= least && value <= most
}

// offset reads [+-]hh[:mm[:ss]] as seconds.
func (p *parser) offset(to *int, mostHours int) bool {
	negative := p.take('-')
	if !negative {
		p.take('+')
	}
	var hours, minutes, seconds int
	if !p.number(&hours, 0, mostHours) {
		return false
	}
	if p.take(':') {
		if !p.number(&minutes, 0, 59) || p.take(':') && !p.number(&seconds, 0, 59) {
			return false
		}
	}
	*to = 3600*hours + 60*minutes + seconds
	if negative {
		*to = -*to
	}
	return true
}

// change reads ,DATE[/TIME].
func (p *parser) change(c *change) bool {
	if !p.take(',') {
		return false
	}
	ok := false
	switch {
	case p.take('M'):
		c.kind = 'M'
		ok = p.number(&c.month, 1, 12) && p.take('.') && p.number(&c.week, 1, 5) && p.take('.') && p.number(&c.day, 0, 6)
	case p.take('J'):
		c.kind = 'J'
		ok = p.number(&c.day, 1, 365)
	default:
		c.kind = 'D'
		ok = p.number(&c.day, 0, 365)
	}
	c.secondsOfTheDay = 2 * 3600
	return ok && (!p.take('/') || p.offset(&c.secondsOfTheDay, 167))
}
