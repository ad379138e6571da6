package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"os"
	"slices"
	"strings"
)

//go:embed report.html
var page string

// The plots' size, in pixels.
const (
	width, height = 520, 150
	margin        = 34
)

// most lines that a plot shows; the rest is in the table.
const mostLines = 4

var colors = [mostLines]string{"#1769aa", "#c2410c", "#15803d", "#7e22ce"}

// line is one sender's in a plot: a value for each second.
type line struct {
	Name, Color string
	values      []float64
}

// plot is one picture.
type plot struct {
	Title string
	SVG   template.HTML
	Lines []line
}

func writeReport(path string, results []result) error {
	type section struct {
		result
		Plots []plot
		Names []string
	}
	var sections []section
	for _, r := range results {
		sections = append(sections, section{r, []plot{
			draw("served a second", r.outcome, func(second []sample) float64 { return (&sent{second}).served() }),
			draw("p99 of what was served, ms", r.outcome, func(second []sample) float64 {
				if s := (&sent{second}); s.served() > 0 {
					return s.latency(0.99)
				}
				return math.NaN()
			}),
			draw("refused or failed a second", r.outcome, func(second []sample) float64 { return float64(len(second)) - (&sent{second}).served() }),
		}, r.outcome.tenants()})
	}
	var text strings.Builder
	if err := template.Must(template.New("report").Parse(page)).Execute(&text, sections); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}

// draw draws a figure of each second, for those who sent the most, and always for the light one.
func draw(title string, o *outcome, of func([]sample) float64) plot {
	names := o.tenants()
	slices.SortStableFunc(names, func(a, b string) int {
		if (a == "light") != (b == "light") {
			if a == "light" {
				return -1
			}
			return 1
		}
		return len(o.of(b).samples) - len(o.of(a).samples)
	})
	p, top := plot{Title: title}, 0.0
	for i, name := range names[:min(len(names), mostLines)] {
		seconds := make([][]sample, int(o.seconds))
		for _, s := range o.of(name).samples {
			if second := int(s.at); second >= 0 && second < len(seconds) {
				seconds[second] = append(seconds[second], s)
			}
		}
		l := line{Name: name, Color: colors[i]}
		for _, second := range seconds {
			l.values = append(l.values, of(second))
			if v := l.values[len(l.values)-1]; !math.IsNaN(v) {
				top = max(top, v)
			}
		}
		p.Lines = append(p.Lines, l)
	}
	p.SVG = svg(p.Lines, max(top, 1))
	return p
}

// svg is the lines as a picture. It holds numbers and colors of this program only.
func svg(lines []line, top float64) template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" width="%d" height="%d" role="img">`, width+margin, height+20, width+margin, height+20)
	for _, part := range []float64{0, 0.5, 1} {
		y := float64(height) * (1 - part*0.95)
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="0" y="%.1f" font-size="10" fill="#666">%.4g</text>`, margin, width+margin, y, y, y+3, top*part)
	}
	for _, l := range lines {
		var points []string
		for i, v := range l.values {
			if !math.IsNaN(v) {
				points = append(points, fmt.Sprintf("%.1f,%.1f", margin+float64(i)*width/float64(max(1, len(l.values)-1)), float64(height)*(1-v/top*0.95)))
			}
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`, l.Color, strings.Join(points, " "))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="10" fill="#666">seconds</text></svg>`, width/2, height+16)
	return template.HTML(b.String()) //nolint:gosec // see above
}
