package logs

import (
	"bytes"
	"time"

	"gracerun.io/supervisor/localtime"
)

// k8sFileDriver writes a file in the format of the Container Runtime Interface.
var k8sFileDriver = driver{
	names: []string{"k8s-file"},
	file:  true,
	make:  func(l *Logs, place int, path string) log { return newFile(l, place, path, new(k8sFormat)) },
}

// k8sFormat is time, stream, F for a line or P for a part of one, and the content.
type k8sFormat struct{ prefix }

func (f *k8sFormat) begin(now time.Time, source Source) { f.at(now, source) }

// isEnd: a part of a line that has no end yet is written as soon as no more is there,
// as conmon does.
func (f *k8sFormat) isEnd(flush, _ bool) bool { return flush }

func (f *k8sFormat) longest() int { return prefixLen + maxRecord + 1 }

func (f *k8sFormat) records(out, data []byte, end bool, r room) (made, used int, why stop) {
	return makeRecords(out, data, &f.prefix, end, r)
}

// maxRecord is how many bytes of output one record has at most, its newline
// included: the size of conmon's buffer. Readers of logs are made for that.
const maxRecord = 8192

// prefixLen is the length of "1997-03-25T13:20:42.999999999+01:00 stdout F ".
const prefixLen = 45

// prefix is what every record of one batch begins with: like conmon we take the
// time once for what was read at once.
type prefix struct {
	text   [prefixLen]byte
	second int64 // that text has; nothing but the nanoseconds changes within it
}

// at puts in the time, in the local time zone, and the stream.
func (p *prefix) at(now time.Time, source Source) {
	if second := now.Unix(); second != p.second || p.text[0] == 0 {
		p.second = second
		local, offset := localtime.Clock(now)
		year, month, day := local.Date()
		hour, minute, sec := local.Clock()
		decimal(p.text[0:4], year)
		decimal(p.text[5:7], int(month))
		decimal(p.text[8:10], day)
		decimal(p.text[11:13], hour)
		decimal(p.text[14:16], minute)
		decimal(p.text[17:19], sec)
		p.text[29] = '+'
		if offset < 0 {
			p.text[29] = '-'
			offset = -offset
		}
		decimal(p.text[30:32], offset/3600)
		decimal(p.text[33:35], offset%3600/60)
		p.text[4], p.text[7], p.text[10] = '-', '-', 'T'
		p.text[13], p.text[16], p.text[32], p.text[19] = ':', ':', ':', '.'
		p.text[35], p.text[42], p.text[44] = ' ', ' ', ' '
	}
	decimal(p.text[20:29], now.Nanosecond())
	copy(p.text[36:42], source.String())
}

func decimal(to []byte, n int) {
	for i := len(to) - 1; i >= 0; i-- {
		to[i] = byte('0' + n%10)
		n /= 10
	}
}

// makeRecords makes records of the Container Runtime Interface from output: time,
// stream, F for a line or P for a part of one that has no end yet, the content.
// A line longer than conmon's buffer becomes several P and an F. What is left of
// the data without an end is made a P if flush says so, and else kept.
//
// It gives the length of the records in out, and how much of the data is in them.
func makeRecords(out, data []byte, p *prefix, flush bool, r room) (made, used int, why stop) {
	for used < len(data) {
		content := data[used:]
		if len(content) > maxRecord {
			content = content[:maxRecord]
		}
		tag, length := byte('F'), 0
		if end := bytes.IndexByte(content, '\n'); end >= 0 {
			content = content[:end+1]
			length = prefixLen + end + 1
		} else {
			if len(content) < maxRecord && !flush {
				return made, used, dataDone
			}
			tag, length = 'P', prefixLen+len(content)+1
		}
		switch {
		case r.total <= 0:
			return made, used, totalFull
		case int64(length) > r.file && !r.one:
			return made, used, fileFull
		case length > len(out)-made:
			return made, used, outFull
		}
		to := out[made : made+length]
		if p.text[prefixLen-2] != tag { // else the copy would wait for the store
			p.text[prefixLen-2] = tag
		}
		*(*[prefixLen]byte)(to) = p.text // without a call
		copy(to[prefixLen:], content)
		to[length-1] = '\n'
		made += length
		used += len(content)
		r.file -= int64(length)
		r.total -= int64(length)
		r.one = false
	}
	return made, used, dataDone
}
