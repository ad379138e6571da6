package tenantstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// MarshalJSON writes the spec of o's kind as "spec".
func (o *Object) MarshalJSON() ([]byte, error) {
	field, ok := o.spec()
	if !ok {
		return nil, fmt.Errorf("unknown kind %q", o.Kind)
	}
	spec, err := json.Marshal(field.Interface())
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		APIVersion string          `json:"apiVersion"`
		Kind       Kind            `json:"kind"`
		Metadata   Metadata        `json:"metadata"`
		Spec       json.RawMessage `json:"spec"`
		Status     Status          `json:"status,omitzero"`
	}{o.APIVersion, o.Kind, o.Metadata, spec, o.Status})
}

// UnmarshalJSON reads what MarshalJSON wrote. It is not strict; [DecodeYAML] is.
func (o *Object) UnmarshalJSON(text []byte) error {
	var wire struct {
		APIVersion string          `json:"apiVersion"`
		Kind       Kind            `json:"kind"`
		Metadata   Metadata        `json:"metadata"`
		Spec       json.RawMessage `json:"spec"`
		Status     Status          `json:"status"`
	}
	if err := json.Unmarshal(text, &wire); err != nil {
		return err
	}
	*o = Object{APIVersion: wire.APIVersion, Kind: wire.Kind, Metadata: wire.Metadata, Status: wire.Status}
	field, ok := o.spec()
	if !ok {
		return fmt.Errorf("unknown kind %q", o.Kind)
	}
	field.Set(reflect.New(field.Type().Elem()))
	if len(wire.Spec) == 0 {
		return nil
	}
	return json.Unmarshal(wire.Spec, field.Interface())
}

// Clone returns a deep copy.
func (o *Object) Clone() *Object {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // an Object of a known kind always has a JSON form
	}
	var clone Object
	if err := json.Unmarshal(text, &clone); err != nil {
		panic(err)
	}
	return &clone
}

// Equal reports whether two objects say the same, whatever their revision.
func (o *Object) Equal(other *Object) bool {
	a, b := *o, *other
	a.Metadata.Revision, b.Metadata.Revision = 0, 0
	left, errA := json.Marshal(&a)
	right, errB := json.Marshal(&b)
	return errA == nil && errB == nil && bytes.Equal(left, right)
}

// Document is one object as it was written, with the lines of its fields.
type Document struct {
	Object *Object
	File   string
	lines  map[string]int // field path -> line
}

// locate gives a problem with the document's object the file and line it is about.
func (d *Document) locate(p Problem) Problem {
	p.File = d.File
	for path := p.Path; ; {
		if line, ok := d.lines[path]; ok {
			p.Line = line
			return p
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			p.Line = d.lines[""]
			return p
		}
		path = path[:cut]
	}
}

// MaxDocument is the most that is read of one input, in bytes.
const MaxDocument = 16 << 20

// DecodeYAML reads every document of r, strictly: an unknown or repeated field, a value of the wrong type
// and an unknown kind are problems, all of which are returned (as [Problems]) with file:line. JSON is YAML.
func DecodeYAML(file string, r io.Reader) ([]*Document, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(text) > MaxDocument {
		return nil, Problems{{File: file, Text: fmt.Sprintf("must be at most %d bytes", MaxDocument)}}
	}
	var documents []*Document
	var problems Problems
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			problems = append(problems, Problem{File: file, Text: "must be YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")})
			break
		}
		if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
			continue
		}
		document, found := decodeDocument(file, root.Content[0])
		problems = append(problems, found...)
		if document != nil {
			documents = append(documents, document)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return documents, nil
}

func decodeDocument(file string, node *yaml.Node) (*Document, Problems) {
	walk := &walker{file: file, lines: map[string]int{"": node.Line}}
	if node.Kind != yaml.MappingNode {
		walk.add(node, "", "must be an object with apiVersion, kind, metadata and spec")
		return nil, walk.problems
	}
	object := &Object{}
	for _, member := range walk.members(node, "") {
		value := member.value
		switch member.name {
		case "apiVersion":
			if object.APIVersion = value.Value; value.Value != APIVersion {
				walk.add(value, "apiVersion", "must be %s (got %q)", APIVersion, value.Value)
			}
		case "kind":
			object.Kind = Kind(value.Value)
			if _, ok := object.spec(); !ok {
				_, err := ParseKind(value.Value + " ") // the text that lists them
				walk.add(value, "kind", "%s", strings.TrimPrefix(strings.Replace(err.Error(), value.Value+" ", value.Value, 1), "kind "))
			}
		case "metadata":
			walk.into(value, "metadata", reflect.ValueOf(&object.Metadata).Elem())
		case "status":
			walk.into(value, "status", reflect.ValueOf(&object.Status).Elem())
		case "spec":
		default:
			walk.add(value, member.name, "must be one of apiVersion, kind, metadata, spec, status (got %q)", member.name)
		}
	}
	for _, name := range []string{"apiVersion", "kind", "metadata", "spec"} {
		if _, ok := walk.lines[name]; !ok {
			walk.add(node, name, "must be set (got nothing)")
		}
	}
	if field, ok := object.spec(); ok {
		field.Set(reflect.New(field.Type().Elem()))
		for _, member := range walk.members(node, "") {
			if member.name == "spec" {
				walk.into(member.value, "spec", field.Elem())
			}
		}
	}
	if len(walk.problems) > 0 {
		return nil, walk.problems
	}
	return &Document{object, file, walk.lines}, nil
}

// walker sets Go values from YAML nodes by their JSON names, and collects what does not fit.
type walker struct {
	file     string
	lines    map[string]int
	problems Problems
	seen     map[*yaml.Node]bool // of mappings whose repeats were reported
}

type member struct {
	name  string
	value *yaml.Node
}

func (w *walker) add(node *yaml.Node, path, format string, args ...any) {
	w.problems = append(w.problems, Problem{File: w.file, Line: node.Line, Path: path, Text: fmt.Sprintf(format, args...)})
}

func (w *walker) members(node *yaml.Node, path string) []member {
	var list []member
	first := !w.seen[node]
	if w.seen == nil {
		w.seen = map[*yaml.Node]bool{}
	}
	w.seen[node] = true
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if slices.ContainsFunc(list, func(m member) bool { return m.name == key.Value }) {
			if first {
				w.add(key, join(path, key.Value), "must be set once (got it again)")
			}
			continue
		}
		w.lines[join(path, key.Value)] = key.Line
		list = append(list, member{key.Value, value})
	}
	return list
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

var timeType = reflect.TypeFor[time.Time]()

func (w *walker) into(node *yaml.Node, path string, target reflect.Value) {
	w.lines[path] = node.Line
	if node.Kind == yaml.AliasNode {
		w.add(node, path, "must be written out, without an alias (got *%s)", node.Value)
		return
	}
	if node.Tag == "!!null" {
		return
	}
	if target.Type() == timeType {
		at, err := time.Parse(time.RFC3339, node.Value)
		if err != nil {
			w.add(node, path, "must be a time as in RFC 3339, such as 2026-01-02T15:04:05Z (got %q)", node.Value)
		}
		target.Set(reflect.ValueOf(at))
		return
	}
	switch target.Kind() {
	case reflect.Pointer:
		target.Set(reflect.New(target.Type().Elem()))
		w.into(node, path, target.Elem())
	case reflect.Struct:
		if w.is(node, path, yaml.MappingNode, "an object") {
			w.structure(node, path, target)
		}
	case reflect.Slice:
		if !w.is(node, path, yaml.SequenceNode, "a list") {
			return
		}
		target.Set(reflect.MakeSlice(target.Type(), len(node.Content), len(node.Content)))
		for i, item := range node.Content {
			w.into(item, fmt.Sprintf("%s[%d]", path, i), target.Index(i))
		}
	case reflect.Map:
		if !w.is(node, path, yaml.MappingNode, "an object") {
			return
		}
		target.Set(reflect.MakeMap(target.Type()))
		for _, member := range w.members(node, path) {
			value := reflect.New(target.Type().Elem()).Elem()
			w.into(member.value, join(path, member.name), value)
			target.SetMapIndex(reflect.ValueOf(member.name).Convert(target.Type().Key()), value)
		}
	default:
		w.scalar(node, path, target)
	}
}

func (w *walker) structure(node *yaml.Node, path string, target reflect.Value) {
	fields := map[string]int{}
	var names []string
	for i := range target.NumField() {
		name, _, _ := strings.Cut(target.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = i
		names = append(names, name)
	}
	for _, member := range w.members(node, path) {
		index, ok := fields[member.name]
		if !ok {
			w.add(member.value, join(path, member.name), "must be one of the fields %s (got %q)", strings.Join(names, ", "), member.name)
			continue
		}
		w.into(member.value, join(path, member.name), target.Field(index))
	}
}

func (w *walker) is(node *yaml.Node, path string, kind yaml.Kind, what string) bool {
	if node.Kind != kind {
		w.add(node, path, "must be %s (got %s)", what, describe(node))
		return false
	}
	return true
}

func (w *walker) scalar(node *yaml.Node, path string, target reflect.Value) {
	want := map[reflect.Kind]struct{ tags, name string }{
		reflect.String: {"!!str", "a string"}, reflect.Bool: {"!!bool", "true or false"},
		reflect.Int: {"!!int", "a whole number"}, reflect.Int64: {"!!int", "a whole number"},
		reflect.Float64: {"!!int !!float", "a number"},
	}[target.Kind()]
	finite := func() bool { return !target.CanFloat() || math.Abs(target.Float()) <= math.MaxFloat64 } // YAML has .nan and .inf, JSON has not
	if node.Kind != yaml.ScalarNode || !slices.Contains(strings.Fields(want.tags), node.Tag) || node.Decode(target.Addr().Interface()) != nil || !finite() {
		w.add(node, path, "must be %s (got %s)", want.name, describe(node))
	}
}

func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", node.Value)
	}
}

// Locate gives each problem the file and line of the document that it is about, where there is one.
func Locate(documents []*Document, problems Problems) Problems {
	located := slices.Clone(problems)
	for i, p := range located {
		for _, d := range documents {
			if d.Object.Key().String() == p.Object {
				located[i] = d.locate(p)
			}
		}
	}
	return located
}
