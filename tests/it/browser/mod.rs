//! Journeys of administrators through a real Chromium, with real mail after each step.
//! They need a browser and curl: `bin/test` gets both.

mod journey;
mod keyboard;
mod looks;
mod markup;
mod one_of_many;
mod scriptless;
mod slowed_down;
mod verification;
mod wrong_gateways;
