//! The report as JUnit's XML, which most CI servers show.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::as_lines;
use crate::diagnostic::{Severity, render};
use crate::workbench::test::{CaseReport, Report};

pub(super) fn write(path: &Path, report: &Report, took: Duration) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    document(&mut out, report, took)?;
    out.flush()
}

/// One suite per pipeline; faults of files are a case of their own that can't run.
fn document(out: &mut impl Write, report: &Report, took: Duration) -> io::Result<()> {
    let faults = report.faults.iter().filter(|fault| fault.severity == Severity::Error).count();
    let mut xml = Writer::new_with_indent(out, b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    xml.create_element("testsuites")
        .with_attribute(("name", "afterimage"))
        .with_attribute(("tests", report.cases.len().to_string().as_str()))
        .with_attribute(("failures", report.failed().to_string().as_str()))
        .with_attribute(("errors", faults.to_string().as_str()))
        .with_attribute(("time", seconds(took).as_str()))
        .write_inner_content(|xml| {
            let mut suites: Vec<&str> = report.cases.iter().map(|case| case.pipeline.as_str()).collect();
            suites.dedup();
            for suite in suites {
                let cases: Vec<&CaseReport> = report.cases.iter().filter(|case| case.pipeline == suite).collect();
                of_pipeline(xml, suite, &cases)?;
            }
            if faults > 0 { of_faults(xml, report) } else { Ok(()) }
        })?;
    Ok(())
}

fn of_pipeline<W: Write>(xml: &mut Writer<W>, suite: &str, cases: &[&CaseReport]) -> io::Result<()> {
    let failed = cases.iter().filter(|case| !case.failures.is_empty()).count();
    xml.create_element("testsuite")
        .with_attribute(("name", suite))
        .with_attribute(("tests", cases.len().to_string().as_str()))
        .with_attribute(("failures", failed.to_string().as_str()))
        .write_inner_content(|xml| cases.iter().try_for_each(|case| of_case(xml, case)))?;
    Ok(())
}

fn of_case<W: Write>(xml: &mut Writer<W>, case: &CaseReport) -> io::Result<()> {
    let file = case.file.display().to_string();
    let element = xml
        .create_element("testcase")
        .with_attribute(("name", clean(&case.name).as_str()))
        .with_attribute(("classname", case.pipeline.as_str()))
        .with_attribute(("file", clean(&file).as_str()))
        .with_attribute(("line", case.span.line.to_string().as_str()))
        .with_attribute(("time", seconds(case.took).as_str()));
    if case.failures.is_empty() {
        element.write_empty()?;
        return Ok(());
    }
    element.write_inner_content(|xml| {
        let text = clean(&as_lines(case));
        xml.create_element("failure")
            .with_attribute(("message", format!("{} of its expectations failed", case.failures.len()).as_str()))
            .write_text_content(BytesText::new(&text))?;
        Ok(())
    })?;
    Ok(())
}

fn of_faults<W: Write>(xml: &mut Writer<W>, report: &Report) -> io::Result<()> {
    let mut text = Vec::new();
    render(&report.faults, &mut text, false)?;
    let text = clean(&String::from_utf8_lossy(&text));
    xml.create_element("testsuite").with_attribute(("name", "files")).write_inner_content(|xml| {
        xml.create_element("testcase").with_attribute(("name", "files without faults")).write_inner_content(|xml| {
            xml.create_element("error")
                .with_attribute(("message", "faulty files"))
                .write_text_content(BytesText::new(&text))?;
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

/// Characters that XML can't carry become question marks.
fn clean(text: &str) -> String {
    let carried = |c: char| matches!(c, '\t' | '\n' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().map(|c| if carried(c) { c } else { '?' }).collect()
}

fn seconds(took: Duration) -> String {
    format!("{:.3}", took.as_secs_f64())
}
