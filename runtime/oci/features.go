package oci

import (
	"gracerun.io/runtime"
	"gracerun.io/runtime/internal/jsontext"
)

// AddAnnotations adds to the "annotations" of what a runtime's `features` prints
// (OCI runtime specification, features.md), and leaves every other byte as it is.
// The error begins with line and column of what is not as it should be.
func AddAnnotations(features []byte, more runtime.Annotations) ([]byte, error) {
	r := jsontext.NewReader(features)
	// Where the new entries go: into the object of that name, or else into a new
	// one before the end of the document.
	at, before, after := 0, "", ""
	first := true
	err := r.Object(func(key string) error {
		first = false
		if key != "annotations" {
			return r.Skip()
		}
		start := r.Offset()
		empty := true
		if r.Null() {
			return r.Fail("annotations are null")
		}
		err := r.Object(func(string) error {
			empty = false
			return r.Skip()
		})
		if at = start + 1; !empty {
			after = ","
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, err
	}
	if at == 0 {
		for at = len(features) - 1; features[at] != '}'; at-- {
		}
		before, after = `"annotations":{`, "}"
		if !first {
			before = "," + before
		}
	}
	text := append([]byte(nil), features[:at]...)
	text = append(text, before...)
	for i, a := range more {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(jsontext.AppendString(text, a.Key, true), ':')
		text = jsontext.AppendString(text, a.Value, true)
	}
	text = append(text, after...)
	return append(text, features[at:]...), nil
}
