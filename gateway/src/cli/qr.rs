//! A QR code on a terminal: two modules in one character, dark on light whatever the colours of the terminal are.

use fast_qr::{ECL, QRBuilder};

use super::CliError;

/// Light modules around the code (ISO/IEC 18004, 5.3.8).
const QUIET: isize = 4;
/// Bright white on black: a light module is what is drawn, a dark one what is left out.
const COLOURS: (&str, &str) = ("\x1b[97;40m", "\x1b[0m");

/// The lines of the code. Without `colours` it is right on a dark terminal.
pub(super) fn code(text: &str, colours: bool) -> Result<String, CliError> {
    // Medium correction: a screen is neither torn nor dirty, and a smaller code fits more terminals.
    let code = QRBuilder::new(text)
        .ecl(ECL::M)
        .build()
        .map_err(|_| CliError::Qr(text.len()))?;
    let size = code.size as isize;
    let is_light = |x: isize, y: isize| {
        let inside = (0..size).contains(&x) && (0..size).contains(&y);
        // A row below the last one is the terminal's own.
        y < size + QUIET && !(inside && code[y as usize][x as usize].value())
    };
    let (begin, end) = if colours { COLOURS } else { ("", "") };
    let mut lines = String::new();
    for y in (-QUIET..size + QUIET).step_by(2) {
        lines.push_str(begin);
        for x in -QUIET..size + QUIET {
            lines.push(match (is_light(x, y), is_light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        lines.push_str(end);
        lines.push('\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a camera sees of it.
    fn read(lines: &str) -> String {
        const SCALE: usize = 4;
        let rows: Vec<Vec<char>> = lines.lines().map(|line| line.chars().collect()).collect();
        let (width, height) = (rows[0].len() * SCALE, rows.len() * 2 * SCALE);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
            let (column, row) = (x / SCALE, y / SCALE);
            let character = rows[row / 2][column];
            let light = match row % 2 {
                0 => "█▀",
                _ => "█▄",
            };
            if light.contains(character) { 255 } else { 0 }
        });
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1, "{lines}");
        grids[0].decode().unwrap().1
    }

    #[test]
    fn a_camera_reads_what_was_written() {
        for text in [
            "x",
            "postern:1;h=mqtt.example.org;p=8883;i=lamp%201",
            &"long ".repeat(120),
        ] {
            assert_eq!(read(&code(text, false).unwrap()), text);
        }
    }

    #[test]
    fn colours_surround_every_line_and_there_is_a_quiet_zone() {
        let lines = code("x", true).unwrap();
        assert!(
            lines
                .lines()
                .all(|line| line.starts_with(COLOURS.0) && line.ends_with(COLOURS.1))
        );
        let plain = code("x", false).unwrap();
        assert!(
            plain
                .lines()
                .take(2)
                .all(|line| line.chars().all(|c| c == '█'))
        );
        let lines: Vec<&str> = plain.lines().collect();
        // Half a line more would be one more than the four modules.
        let (last, others) = lines.split_last().unwrap();
        assert!(others.iter().all(|line| line.starts_with("████")));
        assert!(last.chars().all(|c| c == '▀'), "{last}");
    }

    #[test]
    fn too_much_for_a_code_is_said() {
        let error = code(&"x".repeat(5_000), false).unwrap_err().to_string();
        assert!(error.contains("5000 bytes"), "{error}");
    }
}
