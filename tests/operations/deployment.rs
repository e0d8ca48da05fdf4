//! What containers, systemd and Kubernetes are told exists: every flag, variable, subcommand and path they name.

use std::path::Path;
use std::process::Command;

use saphyr::{LoadableYamlNode as _, Yaml};

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn help() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_comfyd")).args(["serve", "--help"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What begins with one of these, up to the end of the word; our own switches of compose are none of the program's.
fn words(text: &str, prefix: &str) -> Vec<String> {
    let is_end = |character: char| !character.is_ascii_alphanumeric() && !"_-".contains(character);
    let starts = text.match_indices(prefix).map(|(at, _)| &text[at..]);
    starts.map(|rest| rest.split(is_end).next().unwrap_or(rest).to_owned()).collect()
}

/// Set for the container by compose, not read by the program.
const OF_COMPOSE: [&str; 4] = ["COMFYD_USER", "COMFYD_PUBLISH", "COMFYD_DATA", "COMFYD_MODELS"];

#[test]
fn what_deployments_name_exists() {
    let help = help();
    for name in ["Dockerfile", "compose.yaml", "docs/deploy/comfyd.service", "docs/deploy/kubernetes.yaml"] {
        let text = file(name);
        let settings: String =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
        for variable in words(&settings, "COMFYD_").into_iter().chain(words(&settings, "COMFYUI_")) {
            let known = OF_COMPOSE.contains(&variable.as_str()) || help.contains(&variable);
            assert!(known, "{name}: {variable} is not read by comfyd");
        }
    }
    for line in ["serve --drain 60 --help", "serve --log-format json --open-metrics --help", "health --help"]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_comfyd")).args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "{line}");
    }
    let unit = file("docs/deploy/comfyd.service");
    assert!(unit.contains("serve --drain 60\n"));
    assert!(
        file("docs/deploy/kubernetes.yaml")
            .contains(r#"["serve", "--drain", "60", "--log-format", "json", "--open-metrics"]"#)
    );
}

#[test]
fn the_files_are_yaml_with_the_probes_in_them() {
    let compose = file("compose.yaml");
    let compose = Yaml::load_from_str(&compose).unwrap();
    let services = &compose[0]["services"];
    for name in ["cpu", "gpu"] {
        assert!(services[name]["build"]["target"].as_str().is_some(), "{name}");
    }
    let manifest = file("docs/deploy/kubernetes.yaml");
    let manifest = Yaml::load_from_str(&manifest).unwrap();
    let pod = manifest.iter().find(|document| document["kind"].as_str() == Some("Deployment")).unwrap();
    let container = &pod["spec"]["template"]["spec"]["containers"][0];
    let probe = |name: &str| container[name]["httpGet"]["path"].as_str().map(str::to_owned);
    assert_eq!(probe("livenessProbe").as_deref(), Some("/health"));
    assert_eq!(probe("readinessProbe").as_deref(), Some("/ready"));
}

#[test]
fn the_pages_for_operators_name_what_exists() {
    let help = help();
    let (operations, guide, french) =
        (file("docs/operations.md"), file("docs/guide.md"), file("docs/guide.fr.md"));
    for variable in words(&operations, "COMFYD_") {
        let known = OF_COMPOSE.contains(&variable.as_str()) || help.contains(&variable);
        assert!(known, "docs/operations.md: {variable}");
    }
    let known_elsewhere = ["--ready", "--config", "--image", "--output", "--profile", "--release"];
    for page in [&operations, &guide, &french] {
        for flag in words(page, "--").into_iter().filter(|flag| flag.len() > 2 && !flag.starts_with("---")) {
            assert!(known_elsewhere.contains(&flag.as_str()) || help.contains(&flag), "{flag}");
        }
    }
}
