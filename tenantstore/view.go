package tenantstore

// view is the store at one revision, as one writer has it. It changes in place: a change costs what it touches, whatever
// the number of objects.
type view struct {
	revision Revision
	objects  map[Key]*Object
	few      map[Key]*Object // all but tenants: what may be looked through at each write
}

func newView(snapshot Snapshot) *view {
	v := &view{snapshot.Revision, snapshot.Objects, map[Key]*Object{}}
	for key, o := range v.objects {
		if key.Kind != KindTenant {
			v.few[key] = o
		}
	}
	return v
}

// set puts an object, or with nil takes it away.
func (v *view) set(key Key, o *Object) {
	if o == nil {
		delete(v.objects, key)
		delete(v.few, key)
		return
	}
	v.objects[key] = o
	if key.Kind != KindTenant {
		v.few[key] = o
	}
}

// revisionOf is the revision of an object, 0 when it is not there.
func (v *view) revisionOf(key Key) int64 {
	if o := v.objects[key]; o != nil {
		return o.Metadata.Revision
	}
	return 0
}

// before is an object as it was before the draft.
func (t *draft) before(key Key) *Object {
	if o, changed := t.was[key]; changed {
		return o
	}
	return t.objects[key]
}

func (t *draft) change(key Key, o *Object) {
	if _, changed := t.was[key]; !changed {
		t.was[key] = t.objects[key]
	}
	t.set(key, o)
}

// undo takes back what the draft changed.
func (t *draft) undo() {
	for key, o := range t.was {
		t.set(key, o)
	}
}
