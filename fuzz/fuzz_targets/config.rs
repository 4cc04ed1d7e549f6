//! The configuration: no text makes the parser panic. What it accepts prints as a text that reads the same, and what it
//! refuses comes with problems of one line each, whatever the text put into them.
#![no_main]

use broker_config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    match Config::parse(input, "fuzz") {
        Ok(config) => {
            assert_eq!(
                Config::parse(&config.print(), "print").as_ref(),
                Ok(&config)
            );
            assert!(config.restart_keys(&config).is_empty());
        }
        Err(report) => {
            assert!(!report.0.is_empty());
            for problem in &report.0 {
                let line = problem.to_string();
                assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }
});
